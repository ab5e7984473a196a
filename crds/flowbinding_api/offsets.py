"""What a worker writes beside each committed offset (Kafka's commit metadata).

A committed offset alone says that everything before it is done. The metadata adds which of the
messages after it are done too, so that a restart runs again only what was unfinished, and how the
worker is doing, so that the operator can scale without asking any Pod.

Text form: `FB1` followed by unpadded base64url of `body + crc32`. The checksum covers the
committed offset as well, so metadata never speaks for an offset it was not written with. Integers
are unsigned LEB128 varints:

    version · hi_done - offset · count · count deltas of unfinished offsets
    flags · [instance · slots · busy ‰ · mean µs · oldest ms · reason · message]

`hi_done` is one past the highest finished offset; unfinished offsets beyond it need no listing.
The set of unfinished offsets is encoded rather than the span of finished ones because its size is
bounded by what a worker holds, while the span behind one slow message is not. (Confluent's Parallel
Consumer writes the span as a bitmap or run lengths and stalls when it does not fit.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flowbinding_api.varints import MetadataError as MetadataError
from flowbinding_api.varints import Reader, seal, unseal, write_varint

MAX_METADATA = 4096
"""Characters that a broker keeps by default (offset.metadata.max.bytes); one more is refused."""

MAX_MESSAGE = 240
"""Characters kept of `Figures.message`."""

_MAGIC = "FB1"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Figures:
    """What a worker says about itself.

    Attributes:
        instance: Identifies the worker among those of its group (32 bits).
        slots: Runs it can have in flight.
        busy: Share of its slots that were in use lately, 0..1.
        seconds_per_message: Mean duration of a run, in seconds; None before the first.
        oldest_timestamp_ms: Kafka timestamp of its oldest unfinished message; None when idle.
        reason: CamelCase word for what keeps it from working; empty when nothing does.
        message: One sentence to go with `reason`.
    """

    instance: int
    slots: int
    busy: float = 0.0
    seconds_per_message: float | None = None
    oldest_timestamp_ms: int | None = None
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Which messages at or after a committed offset are done.

    Attributes:
        hi_done: One past the highest finished offset; not below the committed offset.
        unfinished: Ascending offsets below `hi_done` that are not done. All others below it are.
    """

    hi_done: int
    unfinished: tuple[int, ...] = ()

    def is_done(self, offset: int) -> bool:
        """Whether the message at `offset` needs no run."""
        if offset >= self.hi_done:
            return False
        at = bisect_left(self.unfinished, offset)
        return at == len(self.unfinished) or self.unfinished[at] != offset


@dataclass(frozen=True, slots=True)
class Metadata:
    """Decoded commit metadata."""

    progress: Progress
    figures: Figures | None = None


def encode(offset: int, progress: Progress, figures: Figures | None = None) -> str:
    """Write metadata for `offset`, in at most `MAX_METADATA` characters.

    When it does not fit, the message goes first, then the knowledge about the highest offsets:
    forgetting that a message is done is safe, forgetting that it is not would lose it.
    """
    text = _text(offset, progress, figures)
    if len(text) > MAX_METADATA and figures is not None and figures.message:
        figures = replace(figures, message="")
        text = _text(offset, progress, figures)
    keep = len(progress.unfinished)
    while len(text) > MAX_METADATA and keep:
        keep = max(0, keep * MAX_METADATA // len(text) - 1)
        cut = Progress(progress.unfinished[keep], progress.unfinished[:keep])
        text = _text(offset, cut, figures)
    return text


def decode(offset: int, text: str) -> Metadata:
    """Read the metadata that was committed with `offset`.

    Raises:
        MetadataError: When it is foreign, damaged, or was written with another offset.
    """
    return _parse(offset, unseal(_MAGIC, text, salt=offset))


def _text(offset: int, progress: Progress, figures: Figures | None) -> str:
    body = bytearray()
    write_varint(body, _VERSION)
    write_varint(body, progress.hi_done - offset)
    write_varint(body, len(progress.unfinished))
    previous = offset
    for item in progress.unfinished:
        write_varint(body, item - previous)
        previous = item
    _figures(body, figures)
    return seal(_MAGIC, bytes(body), salt=offset)


def _figures(body: bytearray, figures: Figures | None) -> None:
    write_varint(body, 0 if figures is None else 1)
    if figures is None:
        return
    write_varint(body, figures.instance)
    write_varint(body, figures.slots)
    write_varint(body, round(min(1.0, max(0.0, figures.busy)) * 1000))
    # Optional figures are shifted by one, so that 0 can mean "unknown".
    mean = figures.seconds_per_message
    write_varint(body, 0 if mean is None else round(mean * 1e6) + 1)
    oldest = figures.oldest_timestamp_ms
    write_varint(body, 0 if oldest is None else max(0, oldest) + 1)
    for part in (figures.reason[:64], figures.message[:MAX_MESSAGE]):
        raw = part.encode()
        write_varint(body, len(raw))
        body += raw


def _parse(offset: int, body: bytes) -> Metadata:
    reader = Reader(body)
    try:
        if reader.varint() != _VERSION:
            raise MetadataError("written by a newer FlowBinding")
        hi_done = offset + reader.varint()
        unfinished = tuple(_running_sum(offset, reader.varints(reader.varint())))
        figures = _parse_figures(reader) if reader.varint() else None
    except (IndexError, UnicodeDecodeError):
        raise MetadataError("cut short") from None
    return Metadata(Progress(hi_done, unfinished), figures)


def _parse_figures(reader: Reader) -> Figures:
    instance, slots, busy, mean, oldest = reader.varints(5)
    return Figures(
        instance=instance,
        slots=slots,
        busy=busy / 1000,
        seconds_per_message=(mean - 1) / 1e6 if mean else None,
        oldest_timestamp_ms=oldest - 1 if oldest else None,
        reason=reader.text(),
        message=reader.text(),
    )


def _running_sum(start: int, deltas: Sequence[int]) -> Iterator[int]:
    for delta in deltas:
        start += delta
        yield start
