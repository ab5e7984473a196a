"""From what is known of a binding to its `status`. Pure.

Conditions follow metav1.Condition: a transition time moves only when the status flips. Numbers that
move all the time are written only when they moved far or long ago (`worth_writing`), so that an
idle binding costs no writes and a busy one few.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowbinding_api.binding import FlowBinding
from flowbinding_api.reasons import Reason
from flowbinding_api.status import Condition, ConditionType, FlowBindingStatus
from flowbinding_operator.conditions import (
    FALSE,
    State,
    States,
    View,
    paused_state,
    states,
    workers_state,
)
from flowbinding_operator.desired import selector
from flowbinding_operator.explained import steady
from flowbinding_operator.lag import Observation, Summary
from flowbinding_operator.workers import Workers

LAG_SECONDS = 10.0
"""Least time between two writes for the lag's sake, and how soon a drained binding shows it."""
LAG_SHARE = 0.10
"""A lag that moved by more than this share is worth a write."""
LAG_AGE_SECONDS = 30.0
"""After this time, any movement is."""

VOLATILE = (
    "lag",
    "lagSeconds",
    "arrivalRate",
    "demandRate",
    "ratePerReplica",
    "secondsPerMessage",
    "reason",
    "scaling",
)
"""What moves all the time; `reason` too, while replicas and conditions stay the same."""


def status_of(
    binding: FlowBinding, old: FlowBindingStatus, view: View, *, now: str, now_ms: int
) -> FlowBindingStatus:
    """The status that tells of `view`.

    Args:
        binding: The resolved binding.
        old: Its status so far: transition times and last measurements come from there.
        view: What is known.
        now: The time, as RFC 3339.
        now_ms: The time, in milliseconds since the epoch.
    """
    observation, decision = view.observation, view.decision
    desired = decision.replicas if decision.replicas is not None else old.desired_replicas
    generation = binding.metadata.generation
    summary = observation.summary if observation else Summary()
    return FlowBindingStatus(
        observed_generation=generation,
        replicas=view.workers.replicas,
        ready_replicas=view.workers.ready,
        desired_replicas=desired,
        recommended_replicas=decision.recommended,
        selector=selector(binding.metadata.name),
        consumer_group=binding.consumer_group,
        partitions=observation.partitions if observation else old.partitions,
        lag=observation.lag if observation else None,
        lag_seconds=_lag_seconds(observation, now_ms),
        arrival_rate=_rounded(decision.arrival_rate),
        demand_rate=_rounded(decision.demand_rate),
        rate_per_replica=_rounded(decision.rate_per_replica),
        seconds_per_message=_rounded(summary.seconds_per_message) or old.seconds_per_message,
        last_scale_time=now if desired != old.desired_replicas else old.last_scale_time,
        flow_version=view.probed.version if view.probed else None,
        reason=decision.reason.value,
        scaling=steady(view.scaling, old.scaling, now),
        conditions=with_times(states(binding, view), old, generation, now),
    )


def invalid(
    old: FlowBindingStatus,
    message: str,
    workers: Workers,
    *,
    paused: bool,
    stopped: bool,
    generation: int | None,
    now: str,
) -> FlowBindingStatus:
    """The status of a binding whose spec cannot be understood.

    What is not known without the spec is removed (the lag is not watched) or stays as it was said
    of an older generation (conditions).

    Args:
        old: Its status so far.
        message: What is wrong with the spec.
        workers: How its workers are.
        paused: Whether the spec says at least that.
        stopped: Whether the workers are to stop, and could be told so.
        generation: The generation of the spec.
        now: The time, as RFC 3339.
    """
    idle = "nothing is scaled before the spec is repaired, but to 0 when paused"
    new: States = {
        ConditionType.READY: State(FALSE, Reason.INVALID_SPEC, message),
        ConditionType.WORKERS_AVAILABLE: workers_state(workers),
        ConditionType.SCALING_ACTIVE: State(FALSE, Reason.INVALID_SPEC, idle),
        ConditionType.PAUSED: paused_state(paused),
    }
    kept = [c for c in old.conditions if c.type not in new]
    # A schedule has no number of workers.
    desired = 0 if stopped and old.desired_replicas is not None else old.desired_replicas
    return old.model_copy(
        update={
            "observed_generation": generation,
            "replicas": workers.replicas,
            "ready_replicas": workers.ready,
            "desired_replicas": desired,
            "last_scale_time": now if desired != old.desired_replicas else old.last_scale_time,
            "reason": Reason.PAUSED.value if stopped else old.reason,
            "lag": None,
            "lag_seconds": None,
            "arrival_rate": None,
            "demand_rate": None,
            "rate_per_replica": None,
            "scaling": None,
            "conditions": [*with_times(new, old, generation, now), *kept],
        }
    )


def patch(old: Mapping[str, Any], new: FlowBindingStatus) -> dict[str, Any]:
    """The merge patch from one status to another; empty when there is nothing to say."""
    wanted = new.model_dump(mode="json", by_alias=True, exclude_none=True)
    # What a newer operator has written stays.
    own = {field.alias or "" for field in FlowBindingStatus.model_fields.values()}
    return _merge_patch({name: value for name, value in old.items() if name in own}, wanted)


def _merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """As RFC 7386 has it: what is gone is named, in objects below as well."""
    changes: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            below = _merge_patch(before, value)
            changes.update({name: below} if below else {})
        elif before != value:
            changes[name] = value
    return changes


def worth_writing(changes: Mapping[str, Any], old: Mapping[str, Any], elapsed: float) -> bool:
    """Whether a patch says enough to be sent, `elapsed` seconds after the last one."""
    if any(name not in VOLATILE for name in changes):
        return True
    if "lag" in changes:
        return lag_moved(old.get("lag"), changes["lag"], elapsed)
    return bool(changes) and elapsed >= LAG_AGE_SECONDS


def lag_moved(old: int | None, new: int | None, elapsed: float) -> bool:
    """Whether a lag is worth a write, `elapsed` seconds after the last one."""
    if old == new:
        return False
    if old is None or new is None:
        return True
    # None or some is far, but no reason for haste: a healthy trickle goes there and back.
    far = abs(new - old) > LAG_SHARE * old or new == 0
    return elapsed >= LAG_AGE_SECONDS or (far and elapsed >= LAG_SECONDS)


def with_times(
    found: States, old: FlowBindingStatus, generation: int | None, now: str
) -> list[Condition]:
    """Conditions with times: the old one's where the status did not flip."""
    known = {condition.type: condition for condition in old.conditions}
    result = []
    for kind, state in found.items():
        before = known.get(kind)
        kept = before if before is not None and before.status is state.status else None
        result.append(
            Condition(
                type=kind,
                status=state.status,
                reason=state.reason,
                message=state.message[:1024],
                last_transition_time=kept.last_transition_time if kept else now,
                observed_generation=generation,
            )
        )
    return result


def _lag_seconds(observation: Observation | None, now_ms: int) -> float | None:
    if observation is None or observation.lag is None:
        return None
    if observation.lag == 0:
        return 0.0
    oldest = observation.summary.oldest_timestamp_ms
    return None if oldest is None else round(max(0.0, (now_ms - oldest) / 1000), 1)


def _rounded(value: float | None) -> float | None:
    """Three significant digits: more is noise, and noise is writes."""
    return None if value is None else float(f"{value:.3g}")
