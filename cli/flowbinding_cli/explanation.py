"""Why a binding has the workers that it has: figures, the formula with them, limits, ways out.

Pure. The decision is the operator's, from the binding's status; nothing is decided again here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from flowbinding_api.reasons import Reason
from flowbinding_api.scaling import PartitionAlignment, ScalingMode
from flowbinding_api.status import ConditionStatus, Hold
from flowbinding_api.troubleshooting import ADVICE
from flowbinding_cli.because import (
    FULL,
    Facts,
    because,
    capacity,
    hold_text,
    known,
    limit_text,
    patient,
)
from flowbinding_cli.words import (
    count,
    duration,
    figure,
    messages,
    partitions,
    rate,
    slots,
    workers,
)

Lines = dict[str, str]
"""Texts by what they are about."""

DEMANDING = (Reason.BACKLOG, Reason.ARRIVALS)
UP_MARGIN = 3
"""Percent that workers may be busier than targetUtilization before there are more."""
OVERDUE_TIMES = 1.25
"""No message may wait for longer than so many times targetLagSeconds."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that there is to say.

    Attributes:
        reason: The operator's word for it.
        why: A sentence.
        inputs: What was measured.
        formula: How the number comes of it.
        limits: What keeps it from being another.
        changes: What would change it.
    """

    why: str
    reason: str = ""
    inputs: Lines = field(default_factory=dict)
    formula: Lines = field(default_factory=dict)
    limits: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def explain(facts: Facts) -> Explanation:
    """Put a binding's decision into words."""
    decided = facts.reason not in (None, Reason.PAUSED, Reason.SKIPPED) and not facts.scheduled
    return Explanation(
        because(facts),
        facts.status.reason or "",
        dict(_inputs(facts)) if decided else {},
        dict(_formula(facts)) if decided else {},
        list(_limits(facts)) if decided else [],
        list(dict.fromkeys(_changes(facts))),
    )


def _inputs(facts: Facts) -> Iterator[tuple[str, str]]:
    status, made = facts.status, facts.made_from
    if status.lag is None:
        yield "Lag", "not known"
    else:
        age = f", the oldest is {status.lag_seconds:g} s old" if status.lag_seconds else ""
        yield "Lag", f"{messages(status.lag)}{age}"
    if made.fast_arrival_rate is not None:
        text = f"{rate(made.fast_arrival_rate)} in 30 s, {rate(made.slow_arrival_rate)} in 3 min"
        yield "Arrivals", text
    measured = status.seconds_per_message
    expected = facts.scaling.expected_seconds_per_message
    if measured is not None:
        yield "A run takes", f"{duration(measured)}, as workers measured it"
    else:
        yield "A run takes", f"{expected:g} s (expectedSecondsPerMessage: not measured yet)"
    yield "Slots", _slots(facts)
    if status.partitions is not None:
        text = count(status.partitions)
        if made.active_partitions is not None:
            text += f", {count(made.active_partitions)} of them with messages in the last 3 min"
        yield "Partitions", text


def _slots(facts: Facts) -> str:
    spec, told = facts.spec, facts.made_from.slots_per_replica
    each = spec.concurrency.per_replica if spec is not None else None
    text = f"{count(each)} for each worker (concurrency.perReplica)"
    if told is not None and each is not None and told < each:
        text += f"; workers use only {told:g}"
    return text


def _formula(facts: Facts) -> Iterator[tuple[str, str]]:
    made, status, scaling = facts.made_from, facts.status, facts.scaling
    if made.wanted_replicas is None:
        return
    if known(made.asked) in DEMANDING:
        yield from _demand(facts)
    else:
        quiet = f"nothing to do for {scaling.idle_seconds} s (idleSeconds)"
        few = "too few messages to wake it (activation)"
        why = quiet if made.asked == Reason.IDLE else few
        yield "Needed", f"{count(made.needed_replicas)}: {why}"
    source = " (a schedule is on)" if _scheduled_bounds(facts) else ""
    yield (
        "Bounds",
        f"{count(made.min_replicas)} to {count(made.max_replicas)}{source}, and"
        f" {partitions(status.partitions)}: {count(made.wanted_replicas)} wanted",
    )
    if facts.desired == made.wanted_replicas:
        yield "Damping", f"none: {facts.desired}"
    elif made.hold is not None:
        left = f", {left}" if (left := facts.left()) else ""
        yield "Damping", f"{facts.desired} ({made.hold.value}{left})"
    if scaling.mode is not ScalingMode.LAG:
        yield "Decided by", f"mode {scaling.mode.value}, not by this"


def _demand(facts: Facts) -> Iterator[tuple[str, str]]:
    made, status, scaling = facts.made_from, facts.status, facts.scaling
    needed = count(made.needed_replicas)
    if scaling.lag_threshold is not None:
        share = (status.lag or 0) / scaling.lag_threshold
        text = (
            f"{count(status.lag)} ÷ {count(scaling.lag_threshold)} (lagThreshold) = {figure(share)}"
        )
        yield "Needed", f"{text}, so {needed}"
        return
    each, seconds = status.rate_per_replica, status.seconds_per_message
    seconds = seconds or scaling.expected_seconds_per_message
    own = facts.spec.concurrency.per_replica if facts.spec is not None else 0
    text = f"{slots(own)} ÷ {duration(seconds)} = {rate(own / seconds)}"
    if each is not None and each < 0.95 * own / seconds:
        text += f"; seen to do only {rate(each)}"
    yield "One worker", text
    demand = status.demand_rate
    what = _to_be_done(facts)
    capped = made.asked == Reason.BACKLOG and (demand or 0) < 0.9 * (
        (status.lag or 0) / scaling.target_lag_seconds
    )
    less = (
        "; the rest is done before more workers would begin, or cannot be done at once of these"
        " partitions"
        if capped
        else ""
    )
    yield "To be done", f"{rate(demand)}: {what}{less}"
    if demand is not None and each:
        plain = max(1, math.ceil(demand / each - 1e-9))
        text = f"{rate(demand)} ÷ {rate(each)} = {figure(demand / each)}, so {plain}"
        yield "Needed", text + _aligned(facts, plain)


def _to_be_done(facts: Facts) -> str:
    """What asks for workers, in the words of the formula."""
    scaling = facts.scaling
    if patient(facts):
        return "what the workers do; more arrives, and may wait"
    if facts.made_from.asked == Reason.BACKLOG:
        within = f"within targetLagSeconds ({scaling.target_lag_seconds:g} s)"
        waits = f"the backlog {within}, with what arrives"
        return "nothing waits" if facts.status.lag == 0 else waits
    if scaling.target_utilization == FULL:
        return "what arrives (targetUtilization is 100 %)"
    share = f"{scaling.target_utilization} %, and {UP_MARGIN} more while nothing is behind"
    return f"arrivals ÷ targetUtilization ({share})"


def _aligned(facts: Facts, plain: int) -> str:
    """Why the need is another number than the division gives."""
    needed, shared = facts.made_from.needed_replicas, facts.status.partitions
    if needed is None or needed == plain:
        return ""
    if needed < plain:
        active = facts.made_from.active_partitions
        idle = active is not None and needed == max(1, active)
        have = "has" if active == 1 else "have"
        why = f"only {partitions(active)} {have} messages" if idle else "more would not help"
        return f"; {needed}, because {why}"
    if shared and facts.scaling.partition_alignment is not PartitionAlignment.NONE:
        most = math.ceil(shared / needed)
        return (
            f"; {needed}, so that no worker has more than {most} of the {shared} partitions"
            f" ({facts.scaling.partition_alignment.value})"
        )
    return f"; {needed}"


def _limits(facts: Facts) -> Iterator[str]:
    made = facts.made_from
    if made.limited_by:
        yield _sentence(f"{made.limited_by}: {limit_text(facts, made.limited_by)}")
    if (made.needed_replicas or 0) < (made.min_replicas or 0):
        name = "a schedule" if _scheduled_bounds(facts) else "spec.scaling.minReplicas"
        yield _sentence(f"{name} keeps {workers(made.min_replicas)}")
    if made.hold is not None and made.hold not in (Hold.IDLE_SECONDS, Hold.ACTIVATION_AGE):
        yield _sentence(f"{made.hold.value}: {hold_text(facts)}")
    ready = facts.condition("Ready")
    if ready is not None and ready.status is not ConditionStatus.TRUE:
        yield _sentence(f"{ready.reason}: {ready.message or 'the binding is not ready'}")


def _changes(facts: Facts) -> Iterator[str]:
    status, made, scaling = facts.status, facts.made_from, facts.scaling
    reason = facts.reason
    if facts.scheduled:
        yield "spec.source.schedule says when it runs."
        return
    if facts.problem or reason is None:
        yield "Repair the spec." if facts.problem else "Wait until the operator has looked at it."
        return
    by_hand = list(_by_hand(facts))
    yield from by_hand
    trouble = _trouble(facts)
    told = (made.limited_by, None if by_hand or trouble else reason)
    yield from (ADVICE[found][2] for found in map(known, told) if found and ADVICE[found][2])
    if (found := known(trouble)) and ADVICE[found][2]:
        yield f"{found.value}: {ADVICE[found][2]}"
    if not made.asked or reason in (Reason.PAUSED, Reason.SKIPPED):
        return
    subject = "It" if facts.by_lag else "The recommendation"
    if made.hold_until is not None and made.hold is not None:
        yield f"{subject} {_by_itself(facts)} ({facts.left()}), if nothing else happens."
    if facts.desired == 0:
        wake = (
            f"more than {count(scaling.activation.lag)} messages"
            if (scaling.activation.lag)
            else "any message"
        )
        yield f"{subject} wakes up with {wake}, at the next look at Kafka."
        return
    able = capacity(facts)
    enough = able is not None and (status.demand_rate or 0) <= able
    if patient(facts):
        yield (
            f"{subject} rises when what waits would not be in time in a minute, or a partition has"
            f" messages older than {OVERDUE_TIMES * scaling.target_lag_seconds:g} s"
            f" ({OVERDUE_TIMES:g} times targetLagSeconds)."
        )
    elif able is not None and enough and facts.desired < _highest(facts):
        waits = made.asked == Reason.ARRIVALS and scaling.target_utilization == FULL
        much = "arrive and what waits would not be in time" if waits else "have to be done"
        yield (
            f"{subject} rises when more than {rate(able)} {much} (now {rate(status.demand_rate)}),"
            f" up to {_highest(facts)}."
        )
    if made.min_replicas == 0:
        if made.hold is not Hold.IDLE_SECONDS:
            yield f"{subject} goes to 0 after {scaling.idle_seconds} s without a message."
    elif facts.desired <= (made.min_replicas or 0):
        yield "It does not fall further: a lower spec.scaling.minReplicas would let it."


def _by_itself(facts: Facts) -> str:
    """What happens at the end of what holds the number."""
    made = facts.made_from
    if made.hold is Hold.IDLE_SECONDS:
        return f"goes to 0 after {facts.scaling.idle_seconds} s without a message"
    if made.hold is Hold.ACTIVATION_AGE:
        return "wakes up when the oldest message has waited long enough"
    falls = (made.wanted_replicas or 0) < facts.desired
    return f"{'falls' if falls else 'rises'} after {made.hold.value if made.hold else 'a while'}"


def _by_hand(facts: Facts) -> Iterator[str]:
    target = f"fb {facts.name} -n {facts.namespace}"
    commands = {
        Reason.STATIC: f"Set spec.scaling.replicas, or: kubectl scale {target} --replicas=N",
        Reason.EXTERNAL: f"Whoever scales it, or: kubectl scale {target} --replicas=N",
        Reason.DRY_RUN: "Set spec.scaling.dryRun to false to have it follow the recommendation.",
        Reason.PAUSED: "Set spec.paused to false.",
        Reason.SKIPPED: "Set spec.flow.id.",
        Reason.SCHEDULE: "The end of the schedule, or another bound in spec.scaling.schedules.",
    }
    if facts.reason in commands:
        yield commands[facts.reason]


def _trouble(facts: Facts) -> str | None:
    """What keeps the binding from working: it may keep the number from changing, too."""
    ready = facts.condition("Ready")
    if ready is None or ready.status is ConditionStatus.TRUE or ready.reason == facts.reason:
        return None
    return ready.reason


def _highest(facts: Facts) -> int:
    bounds = (facts.made_from.max_replicas, facts.status.partitions)
    return min((bound for bound in bounds if bound is not None), default=0)


def _scheduled_bounds(facts: Facts) -> bool:
    made, scaling = facts.made_from, facts.scaling
    return (made.min_replicas, made.max_replicas) != (scaling.min_replicas, scaling.max_replicas)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
