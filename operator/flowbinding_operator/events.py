"""Which Events a change of status is worth: one for each transition. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flowbinding_api.binding import API_VERSION, KIND
from flowbinding_api.reasons import Reason
from flowbinding_api.status import ConditionStatus, ConditionType, FlowBindingStatus

CONTROLLER = "flowbinding.io/operator"
SCALED = "Scaled"
"""An Event's reason only: no condition is about it, and nothing is to be done."""

# What these do not show (a topic, the workers) shows in Ready, with its own reason.
TELLING = {
    ConditionType.READY: ConditionStatus.TRUE,
    ConditionType.DEGRADED: ConditionStatus.FALSE,
    ConditionType.PAUSED: ConditionStatus.FALSE,
}
"""Conditions whose transitions are Events, with the status that is the normal one."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something to tell."""

    type: str
    reason: str
    action: str
    note: str


def happenings(old: FlowBindingStatus, new: FlowBindingStatus) -> list[Happening]:
    """What happened between two statuses, each thing once."""
    found = {item.reason: item for item in [*_transitions(old, new), *_scalings(old, new)]}
    return list(found.values())


def event(
    about: Mapping[str, Any], happening: Happening, *, instance: str, now: str, name: str
) -> dict[str, Any]:
    """An events.k8s.io/v1 Event.

    Args:
        about: Metadata of the binding.
        happening: What happened to it.
        instance: Name of this operator.
        now: The time with microseconds, as RFC 3339.
        name: Name of the Event.
    """
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": about["namespace"]},
        "eventTime": now,
        "type": happening.type,
        "reason": happening.reason,
        "action": happening.action,
        "note": happening.note[:1024],
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": about["namespace"],
            "name": about["name"],
            "uid": about["uid"],
        },
    }


def _transitions(old: FlowBindingStatus, new: FlowBindingStatus) -> Iterator[Happening]:
    before = {condition.type: condition for condition in old.conditions}
    for condition in new.conditions:
        normal = TELLING.get(ConditionType(condition.type))
        if normal is None or condition.reason == Reason.RECONCILING:
            continue
        known = before.get(condition.type)
        if known and (known.status, known.reason) == (condition.status, condition.reason):
            continue
        good = condition.status is normal
        first = known is None or known.status is ConditionStatus.UNKNOWN
        if first and good and condition.type != ConditionType.READY:
            continue
        chosen = good or condition.type == ConditionType.PAUSED
        kind = "Normal" if chosen else "Warning"
        note = condition.message or f"{condition.type} is {condition.status}"
        yield Happening(kind, condition.reason, "Reconcile", note)


def _scalings(old: FlowBindingStatus, new: FlowBindingStatus) -> Iterator[Happening]:
    before, after = old.desired_replicas, new.desired_replicas
    if after is None or before == after or (before is None and after == 0):
        return
    note = f"from {before or 0} to {after} replicas: {new.reason} ({_inputs(new)})"
    yield Happening("Normal", SCALED, "Scale", note)


def _inputs(status: FlowBindingStatus) -> str:
    """What a number of replicas was made from."""
    lag = "unknown" if status.lag is None else status.lag
    parts = [f"lag {lag}"]
    if status.arrival_rate is not None:
        parts.append(f"{status.arrival_rate:g}/s arrive")
    if status.demand_rate is not None:
        parts.append(f"{status.demand_rate:g}/s to be done")
    if status.rate_per_replica is not None:
        parts.append(f"{status.rate_per_replica:g}/s per worker")
    return ", ".join(parts)
