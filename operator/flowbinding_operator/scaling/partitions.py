"""What is known of each partition: how fast it fills, and since when it does not move."""

from __future__ import annotations

import math
from array import array
from collections import deque
from dataclasses import dataclass, field

RATE_SECONDS = 120.0
"""Time constant of a partition's rate."""
ACTIVE_SECONDS = 180.0
"""For so long after its last message a partition may have a worker."""
MOVING_SECONDS = 20.0
"""A partition moves as long as something of it was done so lately."""
PAST_LOOKS = 16
"""End offsets of so many looks back are kept."""


def _offsets() -> array[int]:
    return array("q")


def _kept(before: array[int], offsets: tuple[int, ...]) -> array[int]:
    """The same array while nothing has changed: most bindings sleep, and looks are remembered."""
    now = array("q", offsets)
    return before if now == before else now


def _numbers() -> array[float]:
    return array("d")


@dataclass(slots=True)
class PartitionBook:
    """State by partition, in little space: arrays, not one object for each.

    Attributes:
        ends: End offsets at the last look.
        done: What was done at the last look, see `Sample.done`.
        rates: Messages a second, exponentially weighted.
        came_at: When messages came last, or waited.
        past: (time, end offsets) of earlier looks, oldest first, `apart` seconds or more apart.
        apart: As the longest age needs it that was asked for between two looks.
        oldest: The longest age that was asked for since the last look.
        moved_at: When something was done last, or nothing waited, or nobody was there to do it.
    """

    time: float | None = None
    since: float = 0.0
    ends: array[int] = field(default_factory=_offsets)
    done: array[int] = field(default_factory=_offsets)
    rates: array[float] = field(default_factory=_numbers)
    came_at: array[float] = field(default_factory=_numbers)
    past: deque[tuple[float, array[int]]] = field(default_factory=deque)
    apart: float = 0.0
    oldest: float = 0.0
    moved_at: array[float] = field(default_factory=_numbers)

    def observe(
        self, time: float, ends: tuple[int, ...], done: tuple[int, ...], *, working: bool
    ) -> None:
        """Take in a look. Another number of partitions starts anew: whose is whose is unknown."""
        if self.time is None or len(ends) != len(self.ends):
            self._start(time, ends, done)
            return
        seconds = time - self.time
        if seconds <= 0:
            return
        kept = math.exp(-seconds / RATE_SECONDS)
        for index, (end, finished) in enumerate(zip(ends, done, strict=True)):
            arrived = max(0, end - self.ends[index])
            self.rates[index] = kept * self.rates[index] + (1 - kept) * arrived / seconds
            if arrived or end > finished:
                self.came_at[index] = time
            if finished != self.done[index] or finished >= end or not working:
                self.moved_at[index] = time
        self.time = time
        self.ends, self.done = _kept(self.ends, ends), _kept(self.done, done)
        if self.oldest:
            self.apart, self.oldest = self.oldest / (PAST_LOOKS - 1), 0.0
        if time - self.past[-1][0] >= self.apart:
            self.past.append((time, self.ends))
            if len(self.past) > PAST_LOOKS + 1:
                self.past.popleft()

    def late(self, seconds: float) -> list[int]:
        """Partitions that have a message that came longer ago than that and is not done.

        One of which nothing has been done lately is not late but stuck, or its run is a long one.
        """
        since = (self.time or 0.0) - seconds
        self.oldest = max(self.oldest, seconds)
        then = next((ends for time, ends in reversed(self.past) if time <= since), None)
        if then is None:
            return []
        moving = (self.time or 0.0) - MOVING_SECONDS
        looks = enumerate(zip(then, self.done, self.moved_at, strict=True))
        return [i for i, (end, done, moved) in looks if end > done and moved >= moving]

    def _start(self, time: float, ends: tuple[int, ...], done: tuple[int, ...]) -> None:
        count = len(ends)
        self.time = self.since = time
        self.past = deque([(time, array("q", ends))])
        self.ends, self.done = array("q", ends), array("q", done)
        self.rates = array("d", [0.0] * count)
        self.moved_at = array("d", [time] * count)
        self.came_at = array("d", [time] * count)

    def clear(self) -> None:
        """Forget everything."""
        self.time = None

    @property
    def watched(self) -> float:
        """Seconds since when the same partitions are looked at."""
        return 0.0 if self.time is None else self.time - self.since

    def waiting(self) -> list[int]:
        """Messages that are not done, by partition."""
        return [max(0, end - done) for end, done in zip(self.ends, self.done, strict=True)]

    def stuck(self, seconds: float) -> list[int]:
        """Partitions in which messages have waited for so long without any being done."""
        now = self.time or 0.0
        return [index for index, at in enumerate(self.moved_at) if now - at >= seconds]

    def active(self) -> int:
        """Partitions that have had messages lately."""
        now = self.time or 0.0
        return sum(now - at < ACTIVE_SECONDS for at in self.came_at)
