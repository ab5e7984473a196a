"""How records wait on disk: bytes with checksums. Pure.

A file is a sequence of frames: length and CRC-32 of what follows, then one byte that names its
kind. An *entry* is a record to produce and the message it was made from; a *mark* says what became
of the entry that begins at that place of the same file. Whatever does not parse is left out and
counted: its message is not done then, and runs again.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from flowbinding_worker.kafka.port import Headers
from flowbinding_worker.ports import Partition, Record

_FRAME = struct.Struct(">II")
_MARK = struct.Struct(">I")
_META = struct.Struct(">I")
_ENTRY, _DELIVERED, _DROPPED = b"E", b"D", b"X"
MARK_BYTES = _FRAME.size + 1 + _MARK.size
"""What a mark adds to a file."""


class Kind(StrEnum):
    """What a stored record is."""

    RESULT = "result"
    DEAD_LETTER = "deadLetter"


@dataclass(frozen=True, slots=True)
class Message:
    """A record to produce; the fields are those of `ProducerPort.send`."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None = None


class Source(NamedTuple):
    """The message that a record was made from.

    Attributes:
        partition: Where it was read.
        offset: Its offset there.
        fingerprint: Of its contents: a topic made anew has other messages at the same offsets.
    """

    partition: Partition
    offset: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is stored of one record.

    Attributes:
        kind: A result or a dead letter.
        source: The message it was made from.
        message: What to produce.
        reason: Why it is a dead letter.
    """

    kind: Kind
    source: Source
    message: Message
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One frame of a file that parses.

    Attributes:
        start: Where the entry begins in the file.
        end: Where it ends; 0 for a mark.
        entry: None for a mark.
        delivered: Of a mark: whether the record was acknowledged, or given up.
    """

    start: int
    end: int = 0
    entry: Entry | None = None
    delivered: bool = False


def source_of(record: Record) -> Source:
    """Where a message is, and its fingerprint."""
    digest = hashlib.blake2b(str(record.timestamp_ms).encode(), digest_size=12)
    for part in (record.key, record.value):
        digest.update(b"-" if part is None else b"%d:%b" % (len(part), part))
    return Source(record.partition, record.offset, digest.hexdigest())


def encode(entry: Entry) -> bytes:
    """The frame of an entry."""
    message, source = entry.message, entry.source
    parts: list[bytes] = []

    def part(value: bytes | None) -> int | None:
        if value is None:
            return None
        parts.append(value)
        return len(value)

    meta = {
        "kind": entry.kind,
        "reason": entry.reason,
        "source": [*source.partition, source.offset, source.fingerprint],
        "topic": message.topic,
        "partition": message.partition,
        "key": part(message.key),
        "value": part(message.value),
        "headers": [[name, part(value)] for name, value in message.headers],
    }
    text = json.dumps(meta).encode()
    return _frame(b"".join((_ENTRY, _META.pack(len(text)), text, *parts)))


def mark(start: int, *, delivered: bool) -> bytes:
    """The frame that says what became of the entry that begins there."""
    return _frame((_DELIVERED if delivered else _DROPPED) + _MARK.pack(start))


def decode(frame: bytes) -> Entry | None:
    """The entry of one frame; None when it is broken."""
    found = next(scan(frame), None)
    return found.entry if found is not None else None


def scan(data: bytes) -> Iterator[Found | None]:
    """What is in a file, in order; None for each frame that is broken.

    Nothing can be found behind a broken length.
    """
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        body = data[at + _FRAME.size : end]
        whole = zlib.crc32(body, zlib.crc32(data[at : at + 4])) == checksum and len(body) == length
        yield _parsed(body, at, end) if whole else None
        at = end
    if at < len(data):
        yield None


def _frame(body: bytes) -> bytes:
    length = len(body).to_bytes(4, "big")
    return _FRAME.pack(len(body), zlib.crc32(body, zlib.crc32(length))) + body


def _parsed(body: bytes, start: int, end: int) -> Found | None:
    try:
        if body[:1] == _ENTRY:
            return Found(start, end, _entry(body))
        if body[:1] in (_DELIVERED, _DROPPED):
            (about,) = _MARK.unpack(body[1:])
            return Found(about, delivered=body[:1] == _DELIVERED)
    except (ValueError, TypeError, KeyError, struct.error):
        # Whole, but of a version that wrote other things.
        return None
    return None


def _entry(body: bytes) -> Entry:
    at = 1 + _META.size
    (length,) = _META.unpack_from(body, 1)
    meta = json.loads(body[at : at + length])
    at += length

    def part(size: int | None) -> bytes | None:
        nonlocal at
        if size is None:
            return None
        at += size
        return body[at - size : at]

    topic, partition, offset, fingerprint = meta["source"]
    message = Message(
        meta["topic"],
        part(meta["key"]),
        part(meta["value"]),
        [(name, part(size)) for name, size in meta["headers"]],
        meta["partition"],
    )
    source = Source(Partition(topic, partition), offset, fingerprint)
    return Entry(Kind(meta["kind"]), source, message, meta["reason"])
