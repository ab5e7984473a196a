"""How many workers a binding needs: a pure function of what was seen.

No clock and no I/O: time is whatever the samples say, so that the operator, a simulator and
property tests run the same code. `History` is filled by its owner, once a poll:

    history.observe(sample);  decision = decide(history, spec)
    history.remember(decision, spec.scaling.behavior)

The policy, with P partitions, a service time of S seconds and C slots, so that one worker does
mu = C / S messages a second:

- Demand D, in messages a second, is the larger of what arrives, with headroom, and what arrives
  plus what it takes to work off the backlog within targetLagSeconds. The larger, not the sum:
  headroom drains a backlog already. What is in flight is no backlog: of what arrives, the last S
  seconds are (Little's law), see docs/decisions/0008-work-in-flight-is-no-backlog.md.
- Kafka gives whole partitions to workers, so the busiest worker holds ceil(P / N) of them and N is
  useful only if it lowers that number. `_level` picks the smallest such N.
- Up at once and in one step; down to the highest need within a window; to zero after some quiet.
- What is unknown changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from flowbinding_api.reasons import Reason
from flowbinding_api.scaling import Behavior, Scaling, ScalingMode
from flowbinding_api.spec import FlowBindingSpec, Ordering

FAST_SECONDS = 30.0
SLOW_SECONDS = 180.0
UTILIZATION = 0.90
"""Share of a worker's slots that is planned with."""
DOWN_MARGIN = 0.03
"""Scale-down plans with that much less, so that noise does not move a count up and down."""
NORMAL_LAG_SECONDS = 10.0
"""Messages of so many seconds, or of a run that takes longer, are in flight and no backlog."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one poll saw.

    Attributes:
        time: Seconds on any steady clock.
        lag: Messages not done; None while unknown.
        end: Sum of the end offsets, for arrivals; None while unknown.
        partitions: Partitions of all topics; None while unknown.
        seconds_per_message: Measured by the workers; None before they have.
    """

    time: float
    lag: int | None = None
    end: int | None = None
    partitions: int | None = None
    seconds_per_message: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, why, and from what.

    Attributes:
        replicas: What should run; None: leave it as it is, nothing is known.
        reason: What decided.
        limited: The bound that kept it from wanting more, if one did.
        wanted: The need before damping (up).
        floor: The need before damping (down), not below `wanted`.
    """

    replicas: int | None
    reason: Reason
    limited: Reason | None = None
    wanted: int | None = None
    floor: int | None = None
    lag: int | None = None
    arrival_rate: float | None = None
    rate_per_replica: float | None = None
    seconds_per_message: float | None = None
    partitions: int | None = None


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
    falling: deque[tuple[float, int]] = field(default_factory=deque)

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
            self.falling.popleft()
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
        seconds_per_message: The last measurement, which outlives the workers that made it.
        quiet_since: Since when the lag has been 0 with no arrivals; None otherwise.
        ups: `wanted` of past decisions, negated: the lowest of them counts.
        downs: `floor` of past decisions.
    """

    replicas: int | None = None
    seconds_per_message: float | None = None
    quiet_since: float | None = None
    samples: deque[Sample] = field(default_factory=deque)
    ups: Highest = field(default_factory=Highest)
    downs: Highest = field(default_factory=Highest)

    @property
    def last(self) -> Sample | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    def observe(self, sample: Sample) -> None:
        """Add a sample."""
        self._follow_quiet(sample)
        if sample.seconds_per_message is not None:
            self.seconds_per_message = sample.seconds_per_message
        self.samples.append(sample)
        while len(self.samples) > 2 and self.samples[1].time <= sample.time - SLOW_SECONDS:
            self.samples.popleft()
        if sample.lag is None:
            # A window with a hole proves nothing about what was needed in it.
            self.ups.clear()
            self.downs.clear()

    def remember(self, decision: Decision, behavior: Behavior) -> None:
        """Add what a decision wanted, for later stabilisation over the windows of `behavior`."""
        if self.last is None or decision.wanted is None or decision.floor is None:
            return
        now = self.last.time
        self.ups.add(now, -decision.wanted, behavior.scale_up.stabilization_window_seconds)
        self.downs.add(now, decision.floor, behavior.scale_down.stabilization_window_seconds)

    def restart(self) -> None:
        """Forget what was seen and wanted: it was of other topics. What is set goes on."""
        self.samples.clear()
        self.quiet_since = None
        self.ups.clear()
        self.downs.clear()

    def watched_for(self) -> float:
        """Seconds since when arrivals have been seen without a hole."""
        first = last = None
        for sample in reversed(self.samples):
            if sample.end is None:
                break
            first = sample.time
            last = sample.time if last is None else last
        return 0.0 if first is None or last is None else last - first

    def _follow_quiet(self, sample: Sample) -> None:
        if sample.lag != 0:
            self.quiet_since = None
            return
        known = next((s.end for s in reversed(self.samples) if s.end is not None), sample.end)
        if self.quiet_since is None or sample.end != known:
            self.quiet_since = sample.time


def decide(history: History, spec: FlowBindingSpec) -> Decision:
    """How many workers should run now."""
    scaling = spec.scaling
    if spec.paused:
        return Decision(0, Reason.PAUSED)
    if not spec.flow.runs:
        return Decision(0, Reason.SKIPPED)
    if scaling.mode is ScalingMode.STATIC:
        return Decision(scaling.replicas, Reason.STATIC)
    if scaling.mode is ScalingMode.EXTERNAL:
        return Decision(scaling.replicas, Reason.EXTERNAL)
    sample = history.last
    if sample is None or sample.lag is None or sample.partitions is None:
        return Decision(history.replicas, Reason.LAG_UNKNOWN)
    return _damp(history, scaling, _needs(history, sample, sample.lag, sample.partitions, spec))


def _needs(
    history: History, sample: Sample, lag: int, partitions: int, spec: FlowBindingSpec
) -> Decision:
    """What is needed this moment, before damping; `replicas` is the need too."""
    seconds = history.seconds_per_message or spec.scaling.expected_seconds_per_message
    rate = spec.concurrency.per_replica / seconds
    arrivals = arrival_rate(history.samples)
    highest = min(spec.scaling.max_replicas, partitions)
    quiet = history.quiet_since is not None and (
        sample.time - history.quiet_since >= spec.scaling.idle_seconds
    )
    # Without lag, a sleeping binding stays asleep: whatever arrived is done, or was never its own.
    asleep = lag == 0 and (quiet or history.replicas == 0)
    up, reason, down = 0, Reason.IDLE, 0
    if not asleep:
        up, reason = _unbounded(lag, arrivals, seconds, partitions, spec)
        down, _ = _unbounded(lag, arrivals, seconds, partitions, spec, DOWN_MARGIN)
    limited = _limit(up, arrivals, seconds, partitions, spec)
    lowest = min(spec.scaling.min_replicas, highest)
    if up < lowest:
        reason = Reason.MIN_REPLICAS
    elif limited is not None:
        reason = limited
    wanted = min(max(up, lowest), highest)
    return Decision(
        replicas=wanted,
        reason=reason,
        limited=limited,
        wanted=wanted,
        floor=min(max(down, lowest, wanted), highest),
        lag=lag,
        arrival_rate=arrivals,
        rate_per_replica=rate,
        seconds_per_message=seconds,
        partitions=partitions,
    )


def _unbounded(
    lag: int,
    arrivals: float,
    seconds: float,
    partitions: int,
    spec: FlowBindingSpec,
    margin: float = 0.0,
) -> tuple[int, Reason]:
    """Workers needed regardless of bounds, at least one, and what asks for them."""
    threshold = spec.scaling.lag_threshold
    if threshold is not None:
        return max(1, math.ceil(lag / threshold)), Reason.BACKLOG if lag else Reason.ARRIVALS
    rate = spec.concurrency.per_replica / seconds
    excess = max(0.0, lag - arrivals * max(NORMAL_LAG_SECONDS, seconds))
    steady = arrivals / (UTILIZATION - margin)
    # However many workers there are, the last message is done no sooner than a run takes.
    catch_up = arrivals + excess / max(spec.scaling.target_lag_seconds, seconds)
    demand = max(steady, catch_up)
    if spec.concurrency.ordering is Ordering.PARTITION:
        # One message of a partition at a time: no count of workers is faster than that.
        demand = min(demand, partitions * rate / spec.concurrency.per_replica)
    reason = Reason.ARRIVALS if steady >= catch_up and arrivals > 0 else Reason.BACKLOG
    return max(1, _level(demand, rate, partitions)), reason


def _level(demand: float, rate: float, partitions: int) -> int:
    """The smallest count whose busiest worker keeps up, if partitions are equally busy.

    More than one worker for a partition does not exist, but the answer may exceed the partitions:
    it then says how many would be needed, and the caller sees that a bound was hit.
    """
    if demand <= 0 or partitions <= 0:
        return 0
    each = partitions * rate / demand
    if each < 1:
        return math.ceil(demand / rate - 1e-9)
    return math.ceil(partitions / math.floor(each + 1e-9))


def _limit(
    needed: int, arrivals: float, seconds: float, partitions: int, spec: FlowBindingSpec
) -> Reason | None:
    if needed > min(partitions, spec.scaling.max_replicas):
        fewer_partitions = partitions <= spec.scaling.max_replicas
        return Reason.PARTITION_LIMIT if fewer_partitions else Reason.MAX_REPLICAS
    one_at_a_time = spec.concurrency.ordering is Ordering.PARTITION
    if one_at_a_time and arrivals * seconds > partitions * UTILIZATION:
        return Reason.PARTITION_LIMIT
    return None


def _damp(history: History, scaling: Scaling, need: Decision) -> Decision:
    """Up at once, down with patience; never outside of the bounds."""
    current = history.replicas
    sample = history.last
    if current is None or sample is None or need.wanted is None or need.floor is None:
        return need
    now = sample.time
    if need.wanted > current:
        window = scaling.behavior.scale_up.stabilization_window_seconds
        lowest = history.ups.of(-need.wanted, now, window)
        # Not wanted for long enough: wait.
        target = current if lowest is None else max(current, -lowest)
    elif need.reason is Reason.IDLE:
        # The time of quiet has been the patience.
        target = need.floor
    elif need.floor < current and history.watched_for() < FAST_SECONDS:
        # `_rate` takes what arrived in a shorter time for less than it was.
        target = current
    else:
        window = scaling.behavior.scale_down.stabilization_window_seconds
        highest = history.downs.of(need.floor, now, window)
        target = current if highest is None else min(current, highest)
    # Workers beyond the bounds have nothing to do, so this needs no patience.
    target = min(target, scaling.max_replicas, need.partitions or target)
    kept = target == current != need.wanted
    return replace(need, replicas=target, reason=Reason.STABILIZING if kept else need.reason)


def arrival_rate(samples: Iterable[Sample]) -> float:
    """Messages per second that arrive: lately, or over a longer time if that is more.

    The short window counts less the noise that a Poisson stream of its rate would have (three
    standard deviations), so that a few messages do not look like a trend.
    """
    known = [(s.time, s.end) for s in samples if s.end is not None]
    fast, slow = _rate(known, FAST_SECONDS), _rate(known, SLOW_SECONDS)
    return max(slow, fast - 3 * math.sqrt(fast / FAST_SECONDS))


def _rate(ends: list[tuple[float, int]], window: float) -> float:
    if not ends:
        return 0.0
    now = ends[-1][0]
    recent = [(time, end) for time, end in ends if time >= now - window]
    # A topic that was made anew starts at 0 again: that step says nothing. A short past must not
    # make a burst look like a high rate, so the divisor is at least the short window.
    arrived = sum(max(0, end - before) for (_, before), (_, end) in pairwise(recent))
    return arrived / max(now - recent[0][0], FAST_SECONDS)
