"""Dead letters: what their headers say, and which of them a command is about. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.headers import PREFIXES, SPRING_PREFIX

SPRING_NUMBERS = ("original-partition", "original-offset", "original-timestamp")

Headers = Sequence[tuple[str, bytes | None]]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a message was read."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One dead letter.

    Attributes:
        place: Where it is.
        source: Where its message was read; None when the headers do not say.
        key: The message's own key.
        value: The message's own value; None for a tombstone, and when it was cut.
        headers: The message's own headers.
        about: What the worker wrote about it: names without prefixes, e.g. `reason`,
            `exception.message`, `http-status`.
        timestamp_ms: When it was written to the dead-letter topic.
    """

    place: Source
    source: Source | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    about: dict[str, str]
    timestamp_ms: int

    @property
    def id(self) -> str:
        """`<topic>-<partition>-<offset>` of the dead letter itself."""
        return str(self.place)

    @property
    def group(self) -> str:
        """Consumer group of the worker that gave up; empty when no worker wrote this record."""
        return self.about.get("group", "")

    @property
    def reason(self) -> str:
        """Why it is here, as one word."""
        return self.about.get("reason", "")

    @property
    def stage(self) -> str:
        """Where it failed: DECODE, TEMPLATE, CALL or OUTPUT."""
        return self.about.get("stage", "")

    @property
    def message(self) -> str:
        """Why it is here, as a sentence."""
        return self.about.get("exception.message") or self.about.get("exception-message", "")

    @property
    def failed_ms(self) -> int:
        """When it failed last, in milliseconds since the epoch."""
        text = self.about.get("last-failure-ms", "")
        return int(text) if text.isdigit() else self.timestamp_ms

    @property
    def cut(self) -> bool:
        """Whether the value was too large for the dead-letter topic and is not here."""
        return "truncated" in self.about


def dead_letter(
    place: Source, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int
) -> DeadLetter:
    """A record of a dead-letter topic, understood."""
    about: dict[str, str] = {}
    own: list[tuple[str, bytes | None]] = []
    for name, content in headers:
        prefix = next((p for p in PREFIXES if name.startswith(p)), None)
        if prefix is None:
            own.append((name, content))
        else:
            short = name.removeprefix(prefix)
            about[short] = _text(short if prefix == SPRING_PREFIX else "", content or b"")
    return DeadLetter(place, _source(about), key, value, own, about, timestamp_ms)


def _text(spring_name: str, content: bytes) -> str:
    if spring_name in SPRING_NUMBERS:
        return str(int.from_bytes(content, "big", signed=True))
    return content.decode(errors="replace")


def _source(about: Mapping[str, str]) -> Source | None:
    for prefix in ("", "original-"):
        names = [f"{prefix}{name}" for name in ("topic", "partition", "offset")]
        try:
            topic, partition, offset = (about[name] for name in names)
            return Source(topic, int(partition), int(offset))
        except (KeyError, ValueError):
            continue
    return None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant. Everything that is set has to hold.

    Attributes:
        ids: Whole ids, or `<partition>-<offset>` of them.
        reasons: Any of these; matched without regard to case.
        stages: Any of these; matched without regard to case.
        source_topic: Source topic.
        source_partition: Source partition.
        since_ms: Failed at or after this.
        until_ms: Failed before this.
    """

    ids: Collection[str] = ()
    reasons: Collection[str] = ()
    stages: Collection[str] = ()
    source_topic: str | None = None
    source_partition: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def matches(self, letter: DeadLetter) -> bool:
        """Whether this one is meant."""
        source = letter.source
        topic, partition = (source.topic, source.partition) if source else ("", -1)
        short = f"{letter.place.partition}-{letter.place.offset}"
        return (
            (not self.ids or letter.id in self.ids or short in self.ids)
            and _is_any(letter.reason, self.reasons)
            and _is_any(letter.stage, self.stages)
            and self.source_topic in (None, topic)
            and self.source_partition in (None, partition)
            and (self.since_ms is None or letter.failed_ms >= self.since_ms)
            and (self.until_ms is None or letter.failed_ms < self.until_ms)
        )


def _is_any(word: str, wanted: Collection[str]) -> bool:
    return not wanted or word.lower() in {item.lower() for item in wanted}


def moment_ms(text: str, now: datetime) -> int:
    """A time as milliseconds since the epoch.

    Args:
        text: How long ago (`90s`, `15m`, `2h`, `7d`, `1w`), or an ISO 8601 date or time; without
            a zone it is local time.
        now: With a zone.

    Raises:
        FlowBindingError: It is neither.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip())
    try:
        if found:
            ago = timedelta(seconds=int(found[1]) * _UNITS[found[2]])
            return round((now - ago).timestamp() * 1000)
        return round(datetime.fromisoformat(text.strip()).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError):
        raise FlowBindingError(
            f"{text!r} is no time: expected e.g. 2h, 7d, 2026-11-21 or 2026-11-21T10:00:00Z"
        ) from None


def iso(milliseconds: int) -> str:
    """`2026-11-21T10:39:18Z`; empty for what is no time."""
    try:
        moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(seconds: float) -> str:
    """A duration as kubectl writes it: `42s`, `15m`, `3h`, `2d`."""
    seconds = max(0.0, seconds)
    for unit, size, limit in (("s", 1, 120), ("m", 60, 120 * 60), ("h", 3600, 48 * 3600)):
        if seconds < limit:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86400)}d"
