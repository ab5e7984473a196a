"""What is remembered between polls: samples, needs and changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flowbinding_api.scaling import Behavior
from flowbinding_operator.scaling.decision import Decision
from flowbinding_operator.scaling.partitions import PartitionBook
from flowbinding_operator.scaling.rates import SLOW_SECONDS, flow_rate
from flowbinding_operator.scaling.sample import Past, Sample
from flowbinding_operator.scaling.saturation import Saturation
from flowbinding_operator.scaling.tried import Tried

CHANGES_SECONDS = 1800.0
"""The longest period of a scaling policy."""
HOLE_SECONDS = 15.0
"""Without an answer for less than this, what is known stays good: end offsets catch up."""
ALIKE = 1.25
"""Measurements of a run that differ by less than this factor are mostly noise."""
NOISE_SECONDS = 180.0
"""Time constant with which those are averaged."""
NEWS_SECONDS = 30.0
"""Time constant with which others are believed."""


@dataclass(slots=True)
class Highest:
    """The highest of the numbers of a sliding window of time, whatever its length, in little space.

    A number is dropped when a later one is at least as high: it can never be the highest again. So
    what is kept falls from front to back, and there is no more of it than there are numbers.

    Attributes:
        since: From when on every number is known; None before the first.
        falling: (time, number), oldest first.
    """

    since: float | None = None
    falling: list[tuple[float, int]] = field(default_factory=list)

    def add(self, time: float, number: int, window: float) -> None:
        """Add the newest number, and forget what is older than `window` seconds."""
        if window <= 0:
            self.clear()
            return
        start = time - window
        # A window that grows has to wait until it is known in full.
        self.since = time if self.since is None else max(self.since, start)
        while self.falling and self.falling[-1][1] <= number:
            self.falling.pop()
        while self.falling and self.falling[0][0] < start:
            del self.falling[0]
        self.falling.append((time, number))

    def clear(self) -> None:
        """Forget everything."""
        self.since = None
        self.falling.clear()

    def of(self, newest: int, now: float, window: float) -> int | None:
        """The highest of the last `window` seconds and `newest`; None if they are not all known."""
        start = now - window
        if window > 0 and (self.since is None or self.since > start):
            return None
        within = (number for time, number in self.falling if time >= start)
        return newest if window <= 0 else max(newest, next(within, newest))


@dataclass(slots=True)
class History:
    """What was seen and wanted so far, no older than the windows that are looked at.

    Attributes:
        replicas: What is set to run now; None while unknown.
        recommended: What mode Lag wanted last, whatever the mode.
        seconds_per_message: The last measurement, which outlives the workers that made it.
        quiet_since: Since when the lag has been 0 with no arrivals; None otherwise.
        lagging_since: Since when there has been lag; None otherwise.
        failures: Looks in a row that did not find out the lag.
        hole_since: When they began.
        last: The newest sample.
        samples: What is kept of it and of earlier ones.
        changes: (time, difference) of what was set, oldest first.
        ups: `wanted` of past decisions, negated: the lowest of them counts.
        downs: `floor` of past decisions, for two windows.
    """

    replicas: int | None = None
    recommended: int | None = None
    seconds_per_message: float | None = None
    quiet_since: float | None = None
    lagging_since: float | None = None
    failures: int = 0
    hole_since: float | None = None
    last: Sample | None = None
    samples: Past = field(default_factory=Past)
    changes: list[tuple[float, int]] = field(default_factory=list)
    ups: Highest = field(default_factory=Highest)
    downs: Highest = field(default_factory=Highest)
    partitions: PartitionBook = field(default_factory=PartitionBook)
    saturation: Saturation = field(default_factory=Saturation)
    tried: Tried = field(default_factory=Tried)
    _before: int | None = None
    _measured_at: float | None = None

    def observe(self, sample: Sample) -> None:
        """Add a sample."""
        self._follow_hole(sample)
        self._follow_quiet(sample)
        self._follow_changes(sample.time)
        self._follow_seconds(sample)
        if sample.per_partition:
            working = sample.workers != 0
            self.partitions.observe(sample.time, sample.ends, sample.done, working=working)
        self._forget_before(sample.time)
        self.samples.append(sample.time, sample.end)
        self.last = sample
        self.saturation.observe(sample, self.replicas, self.seconds_per_message)

    def remember(self, decision: Decision, behavior: Behavior) -> None:
        """Add what a decision wanted, for later stabilisation over the windows of `behavior`."""
        self.recommended = decision.recommended
        if self.last is None or decision.wanted is None or decision.floor is None:
            return
        now = self.last.time
        self.ups.add(now, -decision.wanted, behavior.scale_up.stabilization_window_seconds)
        self.downs.add(now, decision.floor, 2 * behavior.scale_down.stabilization_window_seconds)

    def restart(self) -> None:
        """Forget what was seen and wanted: it was of other topics. What is set goes on."""
        self.samples.clear()
        self.last = None
        self.quiet_since = self.lagging_since = None
        self.hole_since = None
        self.failures = 0
        self.ups.clear()
        self.downs.clear()
        self.partitions.clear()
        self.saturation.clear()
        self.tried = Tried()

    def watched_for(self) -> float:
        """Seconds since when arrivals have been seen without a hole."""
        times = [time for time, _ in self.samples.known()]
        since = times[-1] if times else 0.0
        for time in reversed(times):
            if since - time >= HOLE_SECONDS:
                break
            since = time
        return times[-1] - since if times else 0.0

    def changed_by(self, now: float, seconds: float, sign: int) -> int:
        """By how much what is set has risen (sign 1) or fallen (-1) within some seconds."""
        return sum(max(0, sign * by) for time, by in self.changes if time > now - seconds)

    def _forget_before(self, now: float) -> None:
        self.samples.forget_before(now - SLOW_SECONDS)
        while self.changes and self.changes[0][0] <= now - CHANGES_SECONDS:
            del self.changes[0]

    def _follow_changes(self, now: float) -> None:
        if self.replicas is not None and self._before is not None and self.replicas != self._before:
            self.tried.follow(now, self._before, self.replicas, flow_rate(self.samples))
            self.changes.append((now, self.replicas - self._before))
        self._before = self.replicas

    def _follow_hole(self, sample: Sample) -> None:
        if sample.lag is not None:
            self.failures, self.hole_since = 0, None
            return
        self.failures += 1
        before = self.last.time if self.last else sample.time
        self.hole_since = before if self.hole_since is None else self.hole_since
        if sample.time - self.hole_since >= HOLE_SECONDS:
            # A window with a hole proves nothing about what was needed in it.
            self.ups.clear()
            self.downs.clear()
            self.quiet_since = None

    def _follow_seconds(self, sample: Sample) -> None:
        """Average out noise, but not a change: a mean over few runs is noisy."""
        new, old, at = sample.seconds_per_message, self.seconds_per_message, self._measured_at
        if new is None:
            return
        self._measured_at = sample.time
        if old is None or new <= 0 or old <= 0:
            self.seconds_per_message = new
            return
        at = sample.time if at is None else at
        alike = 1 / ALIKE < new / old < ALIKE
        kept = math.exp(-(sample.time - at) / (NOISE_SECONDS if alike else NEWS_SECONDS))
        self.seconds_per_message = kept * old + (1 - kept) * new

    def _follow_quiet(self, sample: Sample) -> None:
        if sample.lag is None:
            return
        if sample.lag > 0:
            self.quiet_since = None
            self.lagging_since = sample.time if self.lagging_since is None else self.lagging_since
            return
        self.lagging_since = None
        known = next((s.end for s in reversed(self.samples) if s.end is not None), sample.end)
        if self.quiet_since is None or sample.end != known:
            self.quiet_since = sample.time
