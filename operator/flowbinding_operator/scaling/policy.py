"""The policy: from a history to a decision."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flowbinding_api.reasons import Reason
from flowbinding_api.scaling import (
    Fallback,
    FallbackBehavior,
    PartitionAlignment,
    Scaling,
    ScalingMode,
)
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_operator.scaling.damping import damp
from flowbinding_operator.scaling.decision import Decision
from flowbinding_operator.scaling.demand import (
    HELPLESS,
    Demand,
    Load,
    demand_of,
    hottest,
    load_of,
)
from flowbinding_operator.scaling.history import History
from flowbinding_operator.scaling.levels import beyond, holding, level
from flowbinding_operator.scaling.partitions import RATE_SECONDS
from flowbinding_operator.scaling.sample import Sample
from flowbinding_operator.scaling.schedules import Bounds, bounds

RELIEF = 0.8
"""With late partitions, a worker holds this share of what it held, and one less at least."""
HELD_BACK = 0.75
"""Workers that use less than this share of their slots are held back by something else."""


@dataclass(frozen=True, slots=True)
class Need:
    """How many workers some demand needs, and what keeps it from being more."""

    replicas: int
    reason: Reason
    limited: Reason | None = None
    demand: float | None = None


def decide(history: History, spec: FlowBindingSpec) -> Decision:
    """How many workers should run now.

    Every decision tells its reason and what it was made from.
    """
    scaling = spec.scaling
    if spec.paused:
        return Decision(0, Reason.PAUSED)
    if not spec.flow.runs:
        return Decision(0, Reason.SKIPPED)
    fixed = {ScalingMode.STATIC: Reason.STATIC, ScalingMode.EXTERNAL: Reason.EXTERNAL}
    reason = fixed.get(scaling.mode, Reason.DRY_RUN if scaling.dry_run else None)
    current = history.replicas if reason is None else history.recommended
    decision = _by_lag(history, spec, current)
    decision = replace(decision, recommended=decision.replicas)
    if reason is None:
        return decision
    replicas = history.replicas if reason is Reason.DRY_RUN else scaling.replicas
    return replace(decision, replicas=replicas, reason=reason)


def _by_lag(history: History, spec: FlowBindingSpec, current: int | None) -> Decision:
    sample = history.last
    within = bounds(spec.scaling, sample.unix if sample else None)
    if sample is None or sample.lag is None or sample.partitions is None:
        return _unknown(history, spec.scaling.fallback, within, current)
    need = _needs(history, sample, spec, within, current)
    return damp(history, spec.scaling, need, current)


def _unknown(
    history: History, fallback: Fallback | None, within: Bounds, current: int | None
) -> Decision:
    """What to do without a lag: nothing, or the fallback once that has lasted."""
    held = Decision(current, Reason.LAG_UNKNOWN)
    if fallback is None or history.failures < fallback.failure_threshold:
        return held
    if fallback.behavior is FallbackBehavior.CURRENT_REPLICAS:
        return held
    some = min(max(fallback.replicas, within.low), within.high)
    if fallback.behavior is FallbackBehavior.CURRENT_REPLICAS_IF_HIGHER:
        some = max(some, current or 0)
    elif fallback.behavior is FallbackBehavior.CURRENT_REPLICAS_IF_LOWER and current is not None:
        some = min(some, current)
    return Decision(some, Reason.FALLBACK)


def _needs(
    history: History, sample: Sample, spec: FlowBindingSpec, within: Bounds, current: int | None
) -> Decision:
    """What is needed this moment, before damping; `replicas` is the need too."""
    load = load_of(history, sample, spec)
    highest = min(within.high, load.partitions)
    lowest = min(within.low, highest)
    asleep = _asleep(history, sample, spec.scaling, current)
    down = asleep or _wanted(history, load, spec, sample, None)
    up = asleep or _wanted(history, load, spec, sample, current or 0)
    up, down = (_help(history, load, spec, need, current) for need in (up, down))
    floor = 0 if asleep else _floor(history, load, up, down, current or 0)
    limited = _limit(up, load, within)
    reason = up.reason
    if up.replicas < lowest:
        reason = Reason.SCHEDULE if within.scheduled_low else Reason.MIN_REPLICAS
    elif limited is not None:
        reason = limited
    wanted = min(max(up.replicas, lowest), highest)
    return Decision(
        replicas=wanted,
        reason=reason,
        limited=limited,
        wanted=wanted,
        floor=min(max(floor, lowest), highest),
        needed=up.replicas,
        asked=up.reason,
        lag=sample.lag,
        arrival_rate=load.arrivals,
        demand_rate=up.demand,
        rate_per_replica=load.rate,
        seconds_per_message=load.seconds,
        partitions=sample.partitions,
        stalled=load.stuck,
        hot=hottest(load),
        lowest=within.low,
        highest=within.high,
    )


def _floor(history: History, load: Load, up: Need, down: Need, current: int) -> int:
    """How many have to stay, for all that is known."""
    floor = max(down.replicas, up.replicas if up.replicas > current else 0)
    few = history.tried.too_few(load.flow, load.time)
    return min(current, beyond(few, load.partitions)) if floor <= few < current else floor


def _asleep(history: History, sample: Sample, scaling: Scaling, current: int | None) -> Need | None:
    """No workers, if the binding sleeps or may fall asleep."""
    lag, now = sample.lag or 0, sample.time
    if lag == 0:
        quiet = (
            history.quiet_since is not None and now - history.quiet_since >= scaling.idle_seconds
        )
        # Without lag, a sleeping binding stays asleep: whatever arrived is done, or was never its
        # own.
        return Need(0, Reason.IDLE) if quiet or current == 0 else None
    if current != 0 or lag > scaling.activation.lag:
        return None
    waited = now - history.lagging_since if history.lagging_since is not None else 0.0
    return Need(0, Reason.NOT_ACTIVATED) if waited < scaling.activation.max_age_seconds else None


def _wanted(
    history: History, load: Load, spec: FlowBindingSpec, sample: Sample, workers: int | None
) -> Need:
    """Workers needed regardless of bounds, at least one, and what asks for them.

    `workers`: as in `demand_of`.
    """
    lag, threshold = sample.lag or 0, spec.scaling.lag_threshold
    if threshold is not None:
        reason = Reason.BACKLOG if lag else Reason.ARRIVALS
        return Need(max(1, math.ceil(lag / threshold)), reason)
    demand = demand_of(load, spec, workers)
    total, limited = demand.total, _capped(load, demand)
    slots = spec.concurrency.max_in_flight
    if slots is not None and total > slots / load.seconds:
        total, limited = slots / load.seconds, Reason.IN_FLIGHT_LIMIT
    each_minute = spec.rate_limit.requests_per_minute
    if each_minute is not None and total > each_minute / 60:
        total, limited = each_minute / 60, Reason.RATE_LIMIT
    alignment = spec.scaling.partition_alignment
    count = max(1, level(total, load.rate, load.partitions, alignment))
    if load.late and limited is None and alignment is PartitionAlignment.BALANCED:
        # Partitions that are alike on average are not at every moment: a step more than what the
        # flow asks for, or than what is not even that yet, and no further.
        each = math.ceil(load.partitions / min(count, workers or count))
        count = max(count, holding(min(each - 1, math.floor(RELIEF * each)), load.partitions))
        demand = replace(demand, steady=False)
    if limited is None and alignment is not PartitionAlignment.NONE:
        count = max(count, _for_the_busiest(history, load, spec))
    if slots is not None and count > slots:
        count, limited = slots, Reason.IN_FLIGHT_LIMIT
    if sample.per_partition:
        count = min(count, max(1, history.partitions.active()))
    reason = Reason.ARRIVALS if demand.steady else Reason.BACKLOG
    return Need(count, reason, limited, total)


def _capped(load: Load, demand: Demand) -> Reason | None:
    """What it says that partitions ask for more than can be done of them."""
    if not demand.capped:
        return None
    if len(demand.capped) * 2 > len(load.flows):
        return Reason.PARTITION_LIMIT
    return Reason.HOT_PARTITION if hottest(load) is not None else None


def _for_the_busiest(history: History, load: Load, spec: FlowBindingSpec) -> int:
    """Workers for which the one with the busiest partition keeps up; 0 if all are about alike."""
    known = history.partitions.watched >= RATE_SECONDS
    if not known or load.each != 1 or load.partitions < 2 or load.flow <= 0:
        return 0
    first = max(load.flows)
    others = (load.flow - first) / (load.partitions - 1)
    sure = first - 2 * math.sqrt(first / RATE_SECONDS)
    able = load.rate * spec.scaling.target_utilization / 100
    if sure <= 2 * others or first > able:
        return 0
    each = 1 + (math.floor((able - first) / others) if others > 0 else load.partitions - 1)
    return holding(min(each, load.partitions), load.partitions)


def _help(
    history: History, load: Load, spec: FlowBindingSpec, need: Need, current: int | None
) -> Need:
    """Less than is needed, where more workers are of no help."""
    saturation, sample = history.saturation, history.last
    if saturation.full_since is not None:
        usual = spec.concurrency.per_replica / saturation.seconds
        enough = level(saturation.rate, usual, load.partitions)
        if need.replicas > max(1, enough):
            return replace(need, replicas=max(1, enough), limited=Reason.BACKEND_SATURATED)
    if not current or need.replicas <= current or sample is None:
        return need
    if load.frozen:
        return replace(need, replicas=current, limited=Reason.PARTITION_STALLED)
    if sample.trouble in HELPLESS or _held_back(sample, spec):
        return replace(need, replicas=current, limited=Reason.BACKEND_SATURATED)
    return need


def _held_back(sample: Sample, spec: FlowBindingSpec) -> bool:
    """Whether workers run fewer at once than they may: they do so for the backend's sake."""
    if sample.slots is None or not sample.workers:
        return False
    slots, together = spec.concurrency.per_replica, spec.concurrency.max_in_flight
    if together is not None:
        # Shares of it are rounded down, and partitions are not shared evenly.
        slots = min(slots, max(1, together // (2 * sample.workers)))
    return sample.slots < HELD_BACK * slots


def _limit(need: Need, load: Load, within: Bounds) -> Reason | None:
    """The bound that keeps it from being more."""
    if need.limited is Reason.BACKEND_SATURATED:
        return need.limited
    if need.replicas > min(load.partitions, within.high):
        if load.partitions <= within.high:
            return Reason.PARTITION_LIMIT
        return Reason.SCHEDULE if within.scheduled_high else Reason.MAX_REPLICAS
    if need.limited is None and load.stuck:
        return Reason.PARTITION_STALLED
    return need.limited
