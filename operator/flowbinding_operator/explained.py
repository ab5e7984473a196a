"""What a number of workers was made from, for `status.scaling`. Pure.

Everything in it stays the same while nothing happens, so that telling of it costs an idle binding
no write: ends of waits are times, never seconds left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise

from flowbinding_api.reasons import Reason
from flowbinding_api.scaling import ScalingRules
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_api.status import Hold, ScalingStatus
from flowbinding_operator.scaling import Decision, History
from flowbinding_operator.scaling.damping import SETTLE_SECONDS, limit_down
from flowbinding_operator.scaling.history import Highest
from flowbinding_operator.scaling.rates import FAST_SECONDS, SLOW_SECONDS
from flowbinding_operator.scaling.sample import Arrived, known

SAME_SECONDS = 3.0
"""Two ends of a wait that differ by no more than this are the same one."""

Wait = tuple[Hold, float | None]
"""What is waited for, and for how many more seconds; None when no time ends it."""


def explained(
    history: History, spec: FlowBindingSpec, decision: Decision, slots: float | None
) -> ScalingStatus | None:
    """What `decision` was made from; None where it was made from nothing.

    Args:
        history: As it was when the decision was made.
        spec: The binding.
        decision: The one to explain.
        slots: Runs that one worker may have in flight, as workers tell.
    """
    if decision.wanted is None:
        return None
    fast, slow = (arrived(history.samples, window) for window in (FAST_SECONDS, SLOW_SECONDS))
    waiting = wait(history, spec, decision)
    hold, seconds = waiting or (None, None)
    # At rest there is nothing to count, and the count still falling would be a write of its own.
    counted = history.partitions.watched > 0 and bool(decision.lag or fast or slow)
    return ScalingStatus(
        asked=decision.asked,
        limited_by=decision.limited,
        needed_replicas=decision.needed,
        wanted_replicas=decision.wanted,
        min_replicas=decision.lowest,
        max_replicas=decision.highest,
        active_partitions=history.partitions.active() if counted else None,
        fast_arrival_rate=float(f"{fast:.3g}"),
        slow_arrival_rate=float(f"{slow:.3g}"),
        slots_per_replica=None if slots is None else float(f"{slots:.3g}"),
        hold=hold,
        hold_until=_wall(history, seconds),
    )


def arrived(samples: Sequence[Arrived], window: float) -> float:
    """Messages per second that arrived in the last so many seconds."""
    looks = known(samples)
    if not looks:
        return 0.0
    now = looks[-1][0]
    lately = [item for item in looks if item[0] >= now - window]
    # A topic that was made anew starts at 0 again: that step says nothing.
    count = sum(max(0, later[1] - earlier[1]) for earlier, later in pairwise(lately))
    # A short past must not make a burst look like a high rate.
    return count / max(now - lately[0][0], FAST_SECONDS)


def steady(new: ScalingStatus | None, old: ScalingStatus | None, now: str) -> ScalingStatus | None:
    """`new` with its time; `old` where the two say the same."""
    if new is None:
        return None
    if old is not None and new.hold is old.hold and _close(new.hold_until, old.hold_until):
        new = new.model_copy(update={"hold_until": old.hold_until})
    same = old is not None and new == old.model_copy(update={"time": None})
    return new.model_copy(update={"time": old.time if same and old else now})


def wait(history: History, spec: FlowBindingSpec, decision: Decision) -> Wait | None:
    """What has to pass before the number changes by itself; None when only the load changes it."""
    sample, current, wanted = history.last, decision.recommended, decision.wanted
    if sample is None or current is None or wanted is None:
        return None
    now, behavior = sample.time, spec.scaling.behavior
    if wanted > current:
        return (
            _settling(history, current, wanted, now)
            or _in_window(history.ups, -current, now, behavior.scale_up)
            or _policy(history, behavior.scale_up, now)
        )
    if wanted < current:
        if (decision.floor or 0) >= current:
            return Hold.MARGIN, None
        watched = history.watched_for()
        if watched < FAST_SECONDS:
            return Hold.OBSERVING, FAST_SECONDS - watched
        held = _in_window(history.downs, current, now, behavior.scale_down)
        allowed = limit_down(history, behavior.scale_down, current, now) < current
        if held is None and allowed and decision.reason is not Reason.SCALING_POLICY:
            # The window is over: the next step down would follow at once, and is waited for.
            return Hold.STABILIZATION_WINDOW, None
        return held or _policy(history, behavior.scale_down, now)
    if current > 0 and sample.lag == 0 and decision.lowest == 0 and history.quiet_since is not None:
        return Hold.IDLE_SECONDS, max(0.0, history.quiet_since + spec.scaling.idle_seconds - now)
    if decision.asked is Reason.NOT_ACTIVATED and history.lagging_since is not None:
        patience = spec.scaling.activation.max_age_seconds
        return Hold.ACTIVATION_AGE, max(0.0, history.lagging_since + patience - now)
    return None


def _settling(history: History, current: int, wanted: int, now: float) -> Wait | None:
    added = [at for at, by in history.changes if by > 0 and at > now - SETTLE_SECONDS]
    if not added or wanted >= 2 * current:
        return None
    return Hold.SETTLING, added[-1] + SETTLE_SECONDS - now


def _in_window(past: Highest, current: int, now: float, rules: ScalingRules) -> Wait | None:
    """How long what was wanted within the window still keeps the number as it is."""
    window = rules.stabilization_window_seconds
    if window <= 0:
        return None
    keeping = [at for at, number in past.falling if number >= current]
    known_since = now if past.since is None else past.since
    left = max([known_since, *keeping]) + window - now
    return (Hold.STABILIZATION_WINDOW, left) if left > 0 else None


def _policy(history: History, rules: ScalingRules, now: float) -> Wait:
    """When the first change that counts against a policy is older than its period."""
    ends = [
        at + policy.period_seconds - now
        for policy in rules.policies
        for at, _ in history.changes
        if at > now - policy.period_seconds
    ]
    return Hold.SCALING_POLICY, min(ends, default=None)


def _wall(history: History, seconds: float | None) -> str | None:
    """The time on the wall in so many seconds from the newest sample."""
    unix = history.last.unix if history.last else None
    if seconds is None or unix is None:
        return None
    return datetime.fromtimestamp(round(unix + seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _close(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return False
    apart = datetime.fromisoformat(one) - datetime.fromisoformat(other)
    return abs(apart.total_seconds()) <= SAME_SECONDS
