"""Which dead letters of a partition are done, and how a commit says so. Pure.

The progress of a replay is the committed offset of a consumer group of its own. A filter leaves
letters out, so the offset alone cannot tell: as with a worker's commits, everything before it is
done, and the metadata says which of the letters after it are done too.

Text form: a bitmap, packed by zlib and sealed with the offset (see `flowbinding_api.varints`) under
`FBR1`. Its bit n, counted from the lowest bit of the first byte, is 1 when the letter at
`offset + n` is done; beyond the bitmap nothing is. The codec of a worker's
metadata (`flowbinding_api.offsets`) forgets what does not fit, which only repeats a run there. Here
it would write a letter twice, so what does not fit is refused. A bitmap, because letters of two
reasons alternate: the worst case takes one bit for each letter (24,000 of them), and long runs
next to nothing.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.offsets import MAX_METADATA, Progress
from flowbinding_api.varints import MetadataError, seal, unseal

_MAGIC = "FBR1"
_MAX_BITMAP = 64 * 1024 * 1024


class ProgressError(FlowBindingError):
    """A replay's progress that cannot be read, or cannot be written in one commit."""

    reason = "ProgressInvalid"


def encode(offset: int, progress: Progress) -> str:
    """Metadata for a commit of `offset`; empty when everything before it says it all.

    Raises:
        ProgressError: It does not fit into `MAX_METADATA` characters.
    """
    if progress.hi_done <= offset:
        return ""
    bitmap = bytearray(b"\xff" * -(-(progress.hi_done - offset) // 8))
    for item in (*progress.unfinished, *range(progress.hi_done, offset + 8 * len(bitmap))):
        byte, bit = divmod(item - offset, 8)
        bitmap[byte] &= ~(1 << bit)
    packed = zlib.compress(bytes(bitmap), 9)
    text = seal(_MAGIC, packed, salt=offset)
    if len(text) > MAX_METADATA:
        raise ProgressError(
            f"which of the {progress.hi_done - offset} records from offset {offset} on are done"
            " does not fit into one commit: deal with the oldest dead letters first"
            " (--until, or without a filter)"
        )
    return text


def decode(offset: int, text: str) -> Progress:
    """What metadata that was committed with `offset` says.

    Raises:
        ProgressError: It is foreign, damaged, or was written with another offset.
    """
    if not text:
        return Progress(offset)
    try:
        bitmap = zlib.decompressobj().decompress(unseal(_MAGIC, text, salt=offset), _MAX_BITMAP)
    except (MetadataError, zlib.error):
        raise ProgressError(
            f"the metadata committed with offset {offset} was not written by a replay"
        ) from None
    # The last bit that is set ends it: what comes after is not done.
    length = int.from_bytes(bitmap, "little").bit_length()
    holes = (n for n in range(length) if not bitmap[n // 8] >> n % 8 & 1)
    return Progress(offset + length, tuple(offset + n for n in holes))


class Ledger:
    """The dead letters of one partition: which are done, told letter by letter.

    Args:
        offset: The committed offset; the partition's start without one.
        metadata: What was committed with it.

    Raises:
        ProgressError: The metadata cannot be read.
    """

    def __init__(self, offset: int, metadata: str = "") -> None:
        self._offset = offset
        self._before = decode(offset, metadata)
        self._open: list[int] = []
        self._seen = offset
        self._hi_done = self._before.hi_done

    @property
    def start(self) -> int:
        """Everything before this offset is done."""
        return self._offset

    def is_done(self, offset: int) -> bool:
        """Whether the letter at `offset` was done when this ledger was read."""
        return offset < self._offset or self._before.is_done(offset)

    def note(self, offset: int, *, done: bool) -> None:
        """Take down one letter. Offsets ascend; those left out hold no letter of the group."""
        self._seen = offset + 1
        if done:
            self._hi_done = max(self._hi_done, offset + 1)
        else:
            self._open.append(offset)

    def commit(self) -> tuple[int, str]:
        """The offset to commit, and its metadata.

        Raises:
            ProgressError: It does not fit into one commit.
        """
        later = self._before.unfinished
        still_open = (*self._open, *later[bisect_right(later, self._seen - 1) :])
        unfinished = tuple(item for item in still_open if item < self._hi_done)
        offset = unfinished[0] if unfinished else self._hi_done
        return offset, encode(offset, Progress(self._hi_done, unfinished))
