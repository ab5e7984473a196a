"""From what is needed to what is done: at once upwards, with patience downwards, never too fast."""

from __future__ import annotations

import math
from dataclasses import replace

from flowbinding_api.reasons import Reason
from flowbinding_api.scaling import PolicyType, Scaling, ScalingRules, SelectPolicy
from flowbinding_operator.scaling.decision import Decision
from flowbinding_operator.scaling.history import History
from flowbinding_operator.scaling.rates import FAST_SECONDS

SETTLE_SECONDS = 8.0
"""After a scale-up, for so long only one to twice as many is worth another rebalance: what asks for
more is mostly still growing, and so would the next step. A scale-down waits for as long when the
next one would follow by then, and so would others: for one window more, and no longer."""


def damp(history: History, scaling: Scaling, need: Decision, current: int | None) -> Decision:
    """Bring a need into a change from `current`, within the bounds.

    Args:
        history: Past needs and changes.
        scaling: Windows and policies.
        need: What is needed this moment; `replicas` is the same as `wanted`.
        current: What runs; None while unknown.
    """
    sample = history.last
    if current is None or sample is None or need.wanted is None or need.floor is None:
        return need
    target = _stabilised(history, scaling, need, current, sample.time)
    reason = Reason.STABILIZING if target == current != need.wanted else need.reason
    allowed = _allowed(history, scaling, need, current, target, sample.time)
    if allowed != target:
        target, reason = allowed, Reason.SCALING_POLICY
    # Workers beyond the bounds have nothing to do, so this needs no patience.
    highest = min(need.highest or target, need.partitions or target)
    return replace(need, replicas=min(target, highest), reason=reason)


def _stabilised(
    history: History, scaling: Scaling, need: Decision, current: int, now: float
) -> int:
    wanted, floor = need.wanted or 0, need.floor or 0
    if wanted > current:
        if wanted < 2 * current and history.changed_by(now, SETTLE_SECONDS, 1):
            return current
        window = scaling.behavior.scale_up.stabilization_window_seconds
        lowest = history.ups.of(-wanted, now, window)
        # Not wanted for long enough: wait.
        return current if lowest is None else max(current, -lowest)
    if need.reason is Reason.IDLE:
        # The time of quiet has been the patience.
        return floor
    if floor < current and history.watched_for() < FAST_SECONDS:
        # A rate takes what arrived in a shorter time for less than it was.
        return current
    window = scaling.behavior.scale_down.stabilization_window_seconds
    highest = history.downs.of(floor, now, window)
    if highest is None or highest >= current:
        return current
    if highest != history.downs.of(floor, now, max(0.0, window - SETTLE_SECONDS)):
        # The next step would follow soon. One that has been awaited for a window falls for long.
        awaited = history.downs.of(floor, now, 2.0 * window)
        return current if awaited is None or awaited >= current else highest
    return highest


def _allowed(
    history: History, scaling: Scaling, need: Decision, current: int, target: int, now: float
) -> int:
    """`target`, as far as policies let it."""
    if target > current:
        rules = scaling.behavior.scale_up
        highest = limit_up(history, rules, current, now)
        return min(target, max(current, highest))
    if target < current:
        rules = scaling.behavior.scale_down
        if need.reason is Reason.IDLE and rules.select_policy is not SelectPolicy.DISABLED:
            return target
        return max(target, min(current, limit_down(history, rules, current, now)))
    return target


def limit_up(history: History, rules: ScalingRules, current: int, now: float) -> int:
    """How many workers there may be at most, as the HorizontalPodAutoscaler computes it.

    Unlike there, a percentage of nothing is one worker: an HPA is never asked at zero.
    """
    if rules.select_policy is SelectPolicy.DISABLED:
        return current
    limits = []
    for policy in rules.policies:
        start = _start(history, current, now, policy.period_seconds)
        if policy.type is PolicyType.PODS:
            limits.append(start + policy.value)
        else:
            limits.append(max(1, math.ceil(start * (1 + policy.value / 100))))
    if not limits:
        return 10**9
    return max(limits) if rules.select_policy is SelectPolicy.MAX else min(limits)


def limit_down(history: History, rules: ScalingRules, current: int, now: float) -> int:
    """How many workers there have to be at least."""
    if rules.select_policy is SelectPolicy.DISABLED:
        return current
    limits = []
    for policy in rules.policies:
        start = _start(history, current, now, policy.period_seconds)
        if policy.type is PolicyType.PODS:
            limits.append(start - policy.value)
        else:
            limits.append(math.floor(start * (1 - policy.value / 100)))
    if not limits:
        return 0
    return min(limits) if rules.select_policy is SelectPolicy.MAX else max(limits)


def _start(history: History, current: int, now: float, period: float) -> int:
    """How many workers there were when the period began."""
    added = history.changed_by(now, period, 1)
    return current - added + history.changed_by(now, period, -1)
