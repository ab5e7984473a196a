"""What is measured. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from worker.server import parse_pattern

PARTITIONS = 12
KEYS = 2_000
BATCH = 500
"""What a hand-written consumer takes at once: Kafka's own default of max.poll.records."""
SLOW = "0.75x19,5.75x1"
"""5 % of the calls take 5.75 s and the others 0.75 s: one second in the mean."""


class System(StrEnum):
    """Who runs the messages."""

    WORKER = "FlowBinding"
    EXACTLY_ONCE = "FlowBinding, exactly once"
    HTTPX = "hand-written, httpx"
    AIOHTTP = "hand-written, aiohttp"
    FASTSTREAM_SAFE = "FastStream, safe"
    FASTSTREAM_FIRST = "FastStream, ack first"


OURS = (System.WORKER, System.EXACTLY_ONCE)


class Ordering(StrEnum):
    """As in `spec.concurrency.ordering`; baselines have what they have."""

    NONE = "None"
    KEY = "Key"
    PARTITION = "Partition"
    OWN = "-"


@dataclass(frozen=True, slots=True)
class Case:
    """One system in one situation.

    Attributes:
        system: Who.
        pattern: How long calls take, see `server.parse_pattern`.
        slots: Calls in flight at most (C).
        ordering: What may not overtake.
        window: Seconds to measure, after the ramp-up.
    """

    system: System
    pattern: str
    slots: int
    ordering: Ordering
    window: float

    @property
    def seconds(self) -> float:
        """Mean time of a call (S)."""
        delays = parse_pattern(self.pattern)
        return sum(delays) / len(delays)

    @property
    def ramp(self) -> float:
        """Seconds from the first completion until the start no longer shows."""
        return max(1.0, 1.5 * max(parse_pattern(self.pattern)))

    @property
    def usable(self) -> int:
        """Slots that can be in use: with order by partition one for each partition."""
        serial = self.ordering is Ordering.PARTITION
        return min(self.slots, PARTITIONS) if serial else self.slots

    @property
    def ideal(self) -> float:
        """Completions per second if no time were lost between two calls."""
        return self.usable / self.seconds

    @property
    def wave(self) -> int:
        """Messages that begin together, see `measure.steady_rate`."""
        return BATCH if self.system in (System.HTTPX, System.AIOHTTP) else self.usable

    @property
    def service(self) -> str:
        """For people: how long calls take."""
        if self.pattern == SLOW:
            return "5 % slow"
        return f"{self.seconds:g} s" if self.seconds >= 1 else f"{self.seconds * 1000:g} ms"

    @property
    def name(self) -> str:
        """For people and for `--only`."""
        order = "" if self.ordering is Ordering.OWN else f" {self.ordering}"
        return f"{self.system} S={self.service} C={self.slots}{order}"


def full() -> list[Case]:
    """Every case; about nine minutes."""
    cases = [
        Case(System.WORKER, pattern, slots, ordering, window)
        for pattern, window in (("1", 8), ("0.1", 5), ("0.02", 5))
        for slots in (10, 100, 400)
        for ordering in (Ordering.NONE, Ordering.KEY, Ordering.PARTITION)
    ]
    cases.append(Case(System.WORKER, SLOW, 100, Ordering.NONE, 20))
    cases.append(Case(System.WORKER, SLOW, 100, Ordering.KEY, 20))
    cases += [Case(System.EXACTLY_ONCE, p, 100, Ordering.KEY, 5) for p in ("0.1", "0.02")]
    return cases + _baselines(System)


def quick() -> list[Case]:
    """The cases that a change is most likely to show in; under two minutes."""
    kinds = [("0.1", Ordering.NONE, 4), ("0.1", Ordering.KEY, 4), ("0.02", Ordering.NONE, 4)]
    cases = [Case(System.WORKER, p, 100, ordering, window) for p, ordering, window in kinds]
    cases.append(Case(System.WORKER, SLOW, 100, Ordering.NONE, 12))
    return cases + [c for c in _baselines([System.AIOHTTP]) if c.pattern != SLOW]


def _baselines(systems: Iterable[System]) -> list[Case]:
    return [
        Case(system, pattern, 100, Ordering.OWN, window)
        for system in systems
        if system not in OURS
        for pattern, window in (("0.1", 5), ("0.02", 5), (SLOW, 22))
    ]
