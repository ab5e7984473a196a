"""What a register holds: one worker's word about messages of one partition. Pure.

Text form: `FBH` followed by unpadded base64url of `body + crc32`. Integers are unsigned LEB128
varints:

    version · fingerprint bytes · instance · beat · count · first offset
    per item: (offset - the one before) << 2 | kind · fingerprint · [attempts · [delay ms]]
    [1 when closed]

The fingerprint of a message shrinks from 4 to 2 bytes when there are so many that they would not
fit otherwise.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from flowbinding_api.offsets import MAX_METADATA
from flowbinding_api.varints import MetadataError, Reader, seal, unseal, write_varint
from flowbinding_worker.ports import Record

_MAGIC = "FBH"
_VERSION = 1
_WIDTHS = (4, 3, 2)
_RUNNING_AGAIN = 3
"""On the wire only: running, with attempts."""
_MAX_ITEMS = 1 << 16


class State(IntEnum):
    """What became of a message.

    RUNNING: its writer runs it, or still has to deliver its result.
    DONE: its result or dead letter is acknowledged.
    FREE: it needs another run, by whoever owns the partition.
    """

    RUNNING = 0
    DONE = 1
    FREE = 2


@dataclass(frozen=True, slots=True)
class Item:
    """One message.

    Attributes:
        fingerprint: See `fingerprint`.
        state: What became of it.
        attempts: Runs that count against `retry.maxAttempts`; kept unless it is done.
        delay_ms: Milliseconds until it may run again, from when the entry is read; FREE only.
    """

    fingerprint: int
    state: State
    attempts: int = 0
    delay_ms: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """The contents of a register.

    Attributes:
        instance: The process that wrote it, by a random number of 32 bits.
        beat: Grows with everything that this process writes.
        items: By offset.
        width: Bytes of each fingerprint that were kept.
        closed: Whether its writer writes nothing more here, not even this again.
    """

    instance: int
    beat: int
    items: Mapping[int, Item]
    width: int = _WIDTHS[0]
    closed: bool = False

    def find(self, offset: int, fingerprint: int) -> Item | None:
        """What is said of a message; None also when it is of a topic that was made anew since."""
        item = self.items.get(offset)
        if item is None or (item.fingerprint ^ fingerprint) & _mask(self.width):
            return None
        return item


def fingerprint(record: Record) -> int:
    """32 bits that tell a message from one with the same offset in a topic made anew."""
    head = record.timestamp_ms.to_bytes(8, "big", signed=True)
    return zlib.crc32(head if record.key is None else head + b"\0" + record.key)


def encode(
    instance: int, beat: int, items: Mapping[int, Item], *, closed: bool = False
) -> str | None:
    """Write an entry, in at most `MAX_METADATA` characters.

    When it does not fit, fingerprints get shorter; then FREE messages go, which costs no more than
    the count of their attempts.

    Returns:
        None when it does not fit at all.
    """
    kept = {o: i for o, i in items.items() if i.state is not State.FREE}
    for some in (items, kept):
        for width in _WIDTHS:
            text = _text(Entry(instance, beat, some, width, closed))
            if len(text) <= MAX_METADATA:
                return text
    return None


def decode(text: str) -> Entry:
    """Read an entry.

    Raises:
        MetadataError: When it is foreign or damaged.
    """
    reader = Reader(unseal(_MAGIC, text))
    try:
        if reader.varint() != _VERSION:
            raise MetadataError("written by another version of FlowBinding")
        width, instance, beat, count, offset = reader.varints(5)
        if width not in _WIDTHS or count > _MAX_ITEMS:
            raise MetadataError("not an entry")
        items = {}
        for _ in range(count):
            step = reader.varint()
            offset += step >> 2
            items[offset] = _item(reader, step & 3, width)
        # Workers that do not know the word neither write nor read it.
        closed = reader.more and reader.varint() == 1
    except IndexError:
        raise MetadataError("cut short") from None
    return Entry(instance, beat, items, width, closed)


def _text(entry: Entry) -> str:
    body = bytearray()
    first = previous = min(entry.items, default=0)
    for number in (_VERSION, entry.width, entry.instance, entry.beat, len(entry.items), first):
        write_varint(body, number)
    for offset, item in sorted(entry.items.items()):
        again = item.state is State.RUNNING and item.attempts
        kind = _RUNNING_AGAIN if again else int(item.state)
        write_varint(body, (offset - previous) << 2 | kind)
        body += (item.fingerprint & _mask(entry.width)).to_bytes(entry.width, "big")
        if again or item.state is State.FREE:
            write_varint(body, item.attempts)
        if item.state is State.FREE:
            write_varint(body, item.delay_ms)
        previous = offset
    if entry.closed:
        write_varint(body, 1)
    return seal(_MAGIC, bytes(body))


def _item(reader: Reader, kind: int, width: int) -> Item:
    mark = int.from_bytes(reader.raw(width), "big")
    state = State.RUNNING if kind == _RUNNING_AGAIN else State(kind)
    attempts = reader.varint() if kind in (_RUNNING_AGAIN, State.FREE) else 0
    delay = reader.varint() if state is State.FREE else 0
    return Item(mark, state, attempts, delay)


def _mask(width: int) -> int:
    return (1 << 8 * width) - 1
