"""How many messages a second the workers have to do, and how many one worker does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flowbinding_api.reasons import Reason
from flowbinding_api.spec import FlowBindingSpec, Ordering
from flowbinding_operator.scaling.history import History
from flowbinding_operator.scaling.partitions import RATE_SECONDS
from flowbinding_operator.scaling.rates import SLOW_SECONDS, rates_of
from flowbinding_operator.scaling.sample import Sample

FULL = 100
"""A targetUtilization that leaves no headroom: then messages may wait, within targetLagSeconds."""
HELPLESS = frozenset(
    {
        Reason.FLOW_FAILING,
        Reason.FLOW_THROTTLED,
        Reason.FLOW_UNREACHABLE,
        Reason.FLOW_UNAUTHORIZED,
        Reason.FLOW_NOT_FOUND,
        Reason.FLOW_MISCONFIGURED,
        Reason.FLOW_FILE_INVALID,
        Reason.ENGINE_MISSING,
        Reason.OUTPUT_UNAVAILABLE,
        Reason.DEAD_LETTER_UNAVAILABLE,
        Reason.SCHEMA_REGISTRY_UNREACHABLE,
        Reason.SCHEMA_REGISTRY_UNAUTHORIZED,
        Reason.SCHEMA_REGISTRY_MISCONFIGURED,
    }
)
"""Troubles against which more workers do not help, and for which no partition is to blame."""
UP_MARGIN = 0.03
"""Workers that run may be that much busier before there are more: noise does not move a count up
and down, and what they do not keep up with shows as backlog."""
SURE_SIGMAS = 3.0
"""Workers go only if the flow and so many standard deviations of its mean need them no more, where
that is more than the headroom."""
HOPE_SIGMAS = 1.0
"""Where messages may wait, they go already if it is likely that those which stay keep up: what
waits shows where they do not."""
PATIENT_SECONDS = 60.0
"""A backlog that so much later will still be in time orders no workers."""
AHEAD_SECONDS = 20.0
"""Workers that are ordered now begin no sooner. What those that run will have done of the backlog
by then, while they do all that arrives, orders nobody."""
NORMAL_LAG_SECONDS = 10.0
"""Messages of so many seconds, or of a run that takes longer, are in flight and no backlog."""
OVERDUE_TIMES = 1.25
"""Patience ends where a message waits for more than so many times targetLagSeconds all the same."""
LATE_TIMES = 1.4
"""A message is late that waits for more than so many times targetLagSeconds, and a run."""
LATE_SHARE = 1 / 8
"""More late partitions than these are no accident."""
ENOUGH_SECONDS = 10.0
"""Workers that have messages for so long never run out of them."""
STUCK_SECONDS = 120.0
STUCK_RUNS = 3.0
"""A partition is stuck when nothing was done of it for so long, or so many timeouts of a run."""
BUSY_SHARE = 0.9
"""Workers have enough to do when this share of the partitions has messages waiting."""
SLOW_SHARE = 0.8
"""What workers are seen to do counts when it is below this share of what slots and seconds say."""
LEAST_SHARE = 0.25
"""And is believed down to this share of it."""


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do, and how fast one worker does it.

    Attributes:
        time: When this was so, in seconds of the clock of samples.
        rate: Messages a second that one worker does.
        seconds: That a run takes.
        arrivals: Messages a second that arrive.
        flow: Messages a second that keep arriving.
        flows: The same by partition. One entry for all of them if no more is known.
        waiting: Messages not done, in the same way.
        partitions: How many there are.
        each: How many partitions an entry of `flows` stands for.
        most: Messages a second that can be done of one partition.
        held: How many partitions the busiest worker holds now.
        late: How many partitions are worked on and yet have late messages.
        patient: Whether messages may wait, as far as targetLagSeconds goes.
        sigmas: Standard deviations of the flow's mean that are added to it before workers go.
        stuck: Partitions that are left out.
        frozen: Whether nothing moves at all although there are workers.
    """

    time: float
    rate: float
    seconds: float
    arrivals: float
    flow: float
    flows: Sequence[float]
    waiting: Sequence[int]
    partitions: int
    each: int
    most: float
    held: int
    late: int
    patient: bool
    sigmas: float
    stuck: tuple[int, ...] = ()
    frozen: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """Messages a second that workers have to do.

    Attributes:
        total: Of all partitions, each of them up to what can be done of it.
        steady: Whether the flow with its headroom asks for it, not the backlog.
        capped: Partitions that ask for more.
    """

    total: float
    steady: bool
    capped: tuple[int, ...] = ()


def load_of(history: History, sample: Sample, spec: FlowBindingSpec) -> Load:
    """What the history says of the load.

    Args:
        history: Everything seen.
        sample: The newest of it, in which the lag is known.
        spec: The binding.
    """
    seconds = history.seconds_per_message or spec.scaling.expected_seconds_per_message
    partitions = sample.partitions or 0
    arrivals, flow = rates_of(history.samples)
    flows, waiting, each = [flow], [sample.unfinished or 0], partitions
    stuck: tuple[int, ...] = ()
    frozen = False
    if sample.per_partition:
        flows, waiting, each = _shares(history, flow), history.partitions.waiting(), 1
        if sample.trouble not in HELPLESS:
            stuck, frozen = _stuck(history, waiting, spec)
        for index in stuck:
            flows[index], waiting[index] = 0.0, 0
    rate = _rate(history, spec.concurrency.per_replica / seconds, waiting)
    held = math.ceil(partitions / max(1, history.replicas or 1))
    target = spec.scaling.target_lag_seconds
    share = rate / held if each == 1 and held else math.inf
    one_at_a_time = spec.concurrency.ordering is Ordering.PARTITION
    patient = (
        each == 1
        and spec.scaling.target_utilization == FULL
        and not _older(history, OVERDUE_TIMES * target, share)
    )
    doubt = 0.0 if history.tried.knows(sum(flows)) else -HOPE_SIGMAS
    return Load(
        time=sample.time,
        rate=rate,
        seconds=seconds,
        arrivals=arrivals,
        flow=sum(flows),
        flows=flows,
        waiting=waiting,
        partitions=partitions,
        each=each,
        most=min(rate, 1 / seconds) if one_at_a_time else rate,
        held=held,
        late=_older(history, LATE_TIMES * target + seconds, share),
        patient=patient,
        sigmas=doubt if patient else SURE_SIGMAS,
        stuck=stuck,
        frozen=frozen,
    )


def demand_of(load: Load, spec: FlowBindingSpec, workers: int | None = None) -> Demand:
    """Messages a second to be done.

    Args:
        load: What there is to do.
        spec: The binding.
        workers: Of which it is asked whether they are enough; None: whether any of them may go,
            which takes more headroom.
    """
    utilization = spec.scaling.target_utilization / 100
    if workers is not None and not _behind(load):
        utilization = min(1.0, utilization + UP_MARGIN)
    more = 1 / utilization
    if workers is None and load.flow > 0:
        noisy = 1 + load.sigmas / math.sqrt(load.flow * SLOW_SECONDS)
        more = noisy if load.patient else max(more, noisy)
    steady = [flow * more for flow in load.flows]
    soon = _soon(load, spec)
    catch_up = [count / soon for count in load.waiting]
    most = load.most * load.each
    by_flow = sum(min(rate, most) for rate in steady)
    by_backlog = max(sum(min(rate, most) for rate in catch_up), _later(load, soon))
    if workers and load.each == 1:
        by_backlog = _ahead(load, workers, by_backlog)
    if workers and (able := _patience(load, spec, workers)) is not None:
        by_flow = min(by_flow, able)
    arriving = by_flow >= by_backlog
    asked = steady if arriving else catch_up
    capped = tuple(index for index, rate in enumerate(asked) if rate > most)
    return Demand(max(by_flow, by_backlog), arriving and load.flow > 0, capped)


def _soon(load: Load, spec: FlowBindingSpec) -> float:
    """Seconds within which what waits has to begin a run, for the run to end in time.

    However many workers there are, a backlog is done no sooner than a run takes.
    """
    return max(spec.scaling.target_lag_seconds - load.seconds, load.seconds)


def _patience(load: Load, spec: FlowBindingSpec, workers: int) -> float | None:
    """What the workers do, if they may fall behind for now; None if they may not.

    A rate that rises slowly needs no more workers while what waits, and what will have come on top
    in a minute, is in time for them, and nothing is overdue.
    """
    if not load.patient:
        return None
    able = _able(load, workers)
    waiting = max(sum(load.waiting), _later(load, 1.0))
    behind = waiting + max(0.0, load.flow - able) * PATIENT_SECONDS
    return able if behind <= able * _soon(load, spec) else None


def _able(load: Load, workers: int) -> float:
    """Messages a second that so many workers do, of partitions that are alike."""
    return load.rate * load.partitions / math.ceil(load.partitions / workers)


def _ahead(load: Load, workers: int, asked: float) -> float:
    """What a backlog asks for when more workers could begin; no less than those that run do."""
    able, waiting = _able(load, workers), sum(load.waiting)
    if asked <= able or not waiting:
        return asked
    gained = max(0.0, able - load.flow) * AHEAD_SECONDS
    return max(able, asked * (1.0 - gained / waiting))


def _behind(load: Load) -> bool:
    """Whether more waits than is normally in flight: in all, or in some of the partitions.

    The work of one worker that cannot keep up is not to be seen in the sum.
    """
    normal = max(NORMAL_LAG_SECONDS, load.seconds)
    if sum(load.waiting) > load.flow * normal:
        return True
    pairs = zip(load.waiting, load.flows, strict=True)
    late = sum(count - 2 * math.sqrt(count) > flow * normal for count, flow in pairs)
    return load.each == 1 and late > LATE_SHARE * load.partitions


def _later(load: Load, soon: float) -> float:
    """What the backlog asks for if all partitions are as late as the later third of them.

    Workers do not share their partitions: the sum says little when some are late and others idle.
    One worker has them all, so what counts are no fewer partitions than a worker holds. What noise
    explains (two standard deviations of a count) is left out, and so is the hot partition.
    """
    if load.each != 1:
        return 0.0
    hot = hottest(load)
    sure = (c - 2 * math.sqrt(c) for i, c in enumerate(load.waiting) if i != hot)
    late = sorted((min(max(0.0, count) / soon, load.most) for count in sure), reverse=True)
    later = late[: max(load.held, math.ceil(len(late) / 3))]
    return load.partitions * sum(later) / len(later) if later else 0.0


def hottest(load: Load) -> int | None:
    """The partition into which more flows than one worker can do of it; None if there is none.

    What is sure counts: the rate less two standard deviations of a Poisson stream.
    """
    if load.each != 1 or not load.flows:
        return None
    index = max(range(len(load.flows)), key=lambda i: load.flows[i])
    flow = load.flows[index]
    return index if flow - 2 * math.sqrt(flow / RATE_SECONDS) > load.most else None


def _shares(history: History, flow: float) -> list[float]:
    """The flow by partition.

    A partition's own rate is noisy, and a burst moves it: only its share in all of them counts.
    """
    rates = history.partitions.rates
    total = sum(rates)
    if total <= 0:
        return [flow / max(1, len(rates))] * len(rates)
    return [flow * rate / total for rate in rates]


def _stuck(
    history: History, waiting: Sequence[int], spec: FlowBindingSpec
) -> tuple[tuple[int, ...], bool]:
    """Partitions that are stuck, or whether most of all are: then it is not about partitions."""
    after = max(STUCK_SECONDS, STUCK_RUNS * spec.flow.timeout_seconds)
    stuck = tuple(index for index in history.partitions.stuck(after) if waiting[index] > 0)
    if len(stuck) > 1 and len(stuck) * 2 > len(waiting):
        return (), True
    return stuck, False


def _older(history: History, seconds: float, share: float) -> int:
    """How many partitions have messages older than that, and so many that they take some time.

    Args:
        history: Everything seen.
        seconds: The age.
        share: Messages a second of one partition that its worker does if all of them are busy.
    """
    older = history.partitions.late(seconds)
    if not older:
        return 0
    waiting = history.partitions.waiting()
    return sum(waiting[index] >= NORMAL_LAG_SECONDS * share for index in older)


def _rate(history: History, nominal: float, waiting: Sequence[int]) -> float:
    """What one worker does: slots over seconds, or less if that is what it is seen to do."""
    late = sum(count > 0 for count in waiting)
    seen = history.saturation.observed_rate(history.replicas)
    # Who does nothing at all is not slow: something is stuck.
    if not seen or len(waiting) <= 1 or late < BUSY_SHARE * len(waiting):
        return nominal
    enough = nominal * (history.replicas or 0) * ENOUGH_SECONDS
    if min(history.saturation.least_waiting, sum(waiting)) < enough:
        return nominal
    return nominal if seen >= SLOW_SHARE * nominal else max(seen, LEAST_SHARE * nominal)
