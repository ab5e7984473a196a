"""Bytes in commit metadata: unsigned LEB128 varints, sealed into a text with magic and checksum."""

from __future__ import annotations

import base64
import binascii
import zlib

from flowbinding_api.errors import FlowBindingError

_CRC_BYTES = 4


class MetadataError(FlowBindingError):
    """Commit metadata that is foreign, damaged, or belongs to another offset.

    Always safe to ignore: the messages then run again.
    """

    reason = "MetadataInvalid"


def write_varint(out: bytearray, value: int) -> None:
    """Append a number, which must not be negative."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


class Reader:
    """Reads numbers, bytes and texts; IndexError when the bytes end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        """Whether anything follows."""
        return self._at < len(self._data)

    def varint(self) -> int:
        """The next number."""
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def varints(self, count: int) -> list[int]:
        """The next `count` numbers."""
        return [self.varint() for _ in range(count)]

    def raw(self, size: int) -> bytes:
        """The next `size` bytes."""
        found = self._data[self._at : self._at + size]
        if len(found) < size:
            raise IndexError
        self._at += size
        return found

    def text(self) -> str:
        """The next text, which follows its length in bytes."""
        return self.raw(self.varint()).decode()


def seal(magic: str, body: bytes, salt: int = 0) -> str:
    """`magic`, then unpadded base64url of the body and of its checksum, which covers `salt` too."""
    data = body + _checksum(body, salt)
    return magic + base64.urlsafe_b64encode(data).decode().rstrip("=")


def unseal(magic: str, text: str, salt: int = 0) -> bytes:
    """The body of a sealed text.

    Raises:
        MetadataError: When it is foreign, damaged, or was sealed with another salt.
    """
    if not text.startswith(magic):
        raise MetadataError("not written by a FlowBinding worker")
    try:
        padded = text[len(magic) :] + "=" * (-(len(text) - len(magic)) % 4)
        data = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise MetadataError("not base64url") from None
    body, checksum = data[:-_CRC_BYTES], data[-_CRC_BYTES:]
    if len(data) <= _CRC_BYTES or checksum != _checksum(body, salt):
        raise MetadataError("the checksum does not fit")
    return body


def _checksum(body: bytes, salt: int) -> bytes:
    return zlib.crc32(body, zlib.crc32(salt.to_bytes(8, "big"))).to_bytes(_CRC_BYTES, "big")
