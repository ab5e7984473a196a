"""What a flow server has told the operator. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from flowbinding_api.reasons import Reason
from flowbinding_api.status import ConditionStatus, ConditionType, FlowBindingStatus

REASONS = frozenset(
    {
        Reason.SERVER_HEALTHY,
        Reason.PROBE_FAILED,
        Reason.FLOW_NOT_FOUND,
        Reason.FLOW_UNAUTHORIZED,
    }
)
"""What may come of asking."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What came of asking."""

    status: ConditionStatus
    reason: Reason
    message: str
    version: str | None = None


def remembered(old: FlowBindingStatus, generation: int | None) -> Probed | None:
    """What an earlier process has found out, until this one has asked."""
    for condition in old.conditions:
        known = condition.reason in REASONS
        same = condition.observed_generation == generation
        if condition.type == ConditionType.FLOW_REACHABLE and known and same:
            reason = Reason(condition.reason)
            return Probed(condition.status, reason, condition.message, old.flow_version)
    return None
