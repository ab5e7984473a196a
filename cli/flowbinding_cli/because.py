"""A sentence for every reason that a number of workers may have. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from flowbinding_api import parse_binding
from flowbinding_api.errors import InvalidBindingError
from flowbinding_api.reasons import Reason
from flowbinding_api.scaling import (
    PartitionAlignment,
    Scaling,
    ScalingMode,
    ScalingRules,
    SelectPolicy,
)
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_api.status import Condition, FlowBindingStatus, Hold, ScalingStatus
from flowbinding_api.troubleshooting import ADVICE
from flowbinding_cli.words import (
    count,
    messages,
    partitions,
    rate,
    workers,
)

FULL = 100
"""A targetUtilization that leaves no headroom."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A FlowBinding as the API server has it, understood as far as possible.

    Attributes:
        spec: None when it breaks a rule.
        problem: Which, then.
        made_from: What the operator says that the number was made from; empty when it does not.
        now: The time, to tell how long something still takes.
    """

    name: str
    namespace: str
    status: FlowBindingStatus
    now: datetime
    spec: FlowBindingSpec | None = None
    problem: str = ""
    made_from: ScalingStatus = field(default_factory=ScalingStatus)

    @classmethod
    def of(cls, live: Mapping[str, Any], now: datetime) -> Facts:
        """Read an object, whatever it holds."""
        metadata, status = live["metadata"], _status(live.get("status") or {})
        spec, problem = None, ""
        try:
            spec = parse_binding(live).spec
        except InvalidBindingError as error:
            problem = "; ".join(map(str, error.problems))
        return cls(
            *(metadata["name"], metadata.get("namespace", "default"), status, now, spec, problem),
            made_from=status.scaling or ScalingStatus(),
        )

    @property
    def scaling(self) -> Scaling:
        """`spec.scaling`; the defaults of a spec that cannot be understood."""
        return self.spec.scaling if self.spec is not None else Scaling()

    @property
    def scheduled(self) -> bool:
        """Whether it runs at certain times and has no workers."""
        return self.spec is not None and self.spec.source.schedule is not None

    @property
    def by_lag(self) -> bool:
        """Whether the lag decides the number."""
        scaling = self.scaling
        return scaling.mode is ScalingMode.LAG and not scaling.dry_run and not self.scheduled

    @property
    def reason(self) -> Reason | None:
        """Why the number is what it is; None while nothing is known, or what is not understood."""
        return known(self.status.reason)

    @property
    def desired(self) -> int:
        """The number to explain: what mode Lag recommends where something else decides."""
        status = self.status
        number = status.desired_replicas if self.by_lag else status.recommended_replicas
        return number or 0

    def condition(self, kind: str) -> Condition | None:
        """One of its conditions."""
        return next((item for item in self.status.conditions if item.type == kind), None)

    def left(self) -> str:
        """How long what holds the number still does; empty when no time ends it."""
        if self.made_from.hold_until is None:
            return ""
        try:
            seconds = (datetime.fromisoformat(self.made_from.hold_until) - self.now).total_seconds()
        except (TypeError, ValueError):
            return ""
        return f"{seconds:.0f} s to go" if seconds >= 1 else "which is about to end"


def _status(raw: Mapping[str, Any]) -> FlowBindingStatus:
    """A status as far as it is understood: a newer operator may say more."""
    for part in (raw, {name: value for name, value in raw.items() if name != "scaling"}):
        try:
            return FlowBindingStatus.model_validate(part)
        except ValidationError:
            continue
    return FlowBindingStatus()


def known(text: str | None) -> Reason | None:
    """A reason by its name; None for one of a newer operator."""
    try:
        return Reason(text) if text else None
    except ValueError:
        return None


def because(facts: Facts) -> str:
    """Why the number of workers is what it is, in a sentence."""
    if facts.problem:
        return f"The spec breaks a rule, so nothing is scaled: {facts.problem}"
    source = facts.spec.source.schedule if facts.spec is not None else None
    if source is not None:
        return (
            f"It runs at {source.cron} ({source.time_zone}), one Pod for each run: spec.scaling"
            " does not matter."
        )
    if facts.status.reason is None:
        return "The operator has not looked at this binding yet."
    if facts.reason is None:
        return f"The operator says {facts.status.reason}."
    made = SENTENCES.get(facts.reason)
    return made(facts) if made is not None else ADVICE[facts.reason][1]


def rules_text(rules: ScalingRules, direction: str) -> str:
    """The policies of a direction, as a sentence would name them."""
    field_name = f"spec.scaling.behavior.{direction}"
    if rules.select_policy is SelectPolicy.DISABLED:
        return f"{field_name}.selectPolicy is Disabled"
    each = [
        f"{p.value}{' Pods' if p.type.value == 'Pods' else ' %'} in {p.period_seconds} s"
        for p in rules.policies
    ]
    which = {"Max": "the most", "Min": "the least"}[rules.select_policy.value]
    several = f", {which} of them" if len(each) > 1 else ""
    return f"{field_name}.policies allow {' or '.join(each) or 'no more'}{several}"


def hold_text(facts: Facts) -> str:
    """What holds the number; empty when nothing does."""
    made, scaling = facts.made_from, facts.scaling
    up = (made.wanted_replicas or 0) > facts.desired
    rules, direction = (
        (scaling.behavior.scale_up, "scaleUp") if up else (scaling.behavior.scale_down, "scaleDown")
    )
    window = rules.stabilization_window_seconds
    texts = {
        Hold.SETTLING: "it grew a moment ago, and so small a step is not worth another rebalance"
        " yet",
        Hold.STABILIZATION_WINDOW: ("more must be wanted" if up else "fewer must be enough")
        + f" throughout spec.scaling.behavior.{direction}.stabilizationWindowSeconds ({window} s)",
        Hold.OBSERVING: "the rate of arrivals has been watched for too short a time",
        Hold.MARGIN: _margin(scaling),
        Hold.SCALING_POLICY: rules_text(rules, direction),
        Hold.IDLE_SECONDS: f"it sleeps after spec.scaling.idleSeconds ({scaling.idle_seconds} s)"
        " without a message",
        Hold.ACTIVATION_AGE: "messages wake it when they have waited for"
        f" spec.scaling.activation.maxAgeSeconds ({scaling.activation.max_age_seconds:g} s)",
    }
    return texts[made.hold] + (f", {left}" if (left := facts.left()) else "") if made.hold else ""


def _margin(scaling: Scaling) -> str:
    if scaling.target_utilization == FULL:
        return "fewer are not likely to keep up with what arrives, or did not the last time"
    return (
        "with fewer, the workers might be busier than targetUtilization"
        f" ({scaling.target_utilization} %) allows, or were behind the last time"
    )


def capacity(facts: Facts) -> float | None:
    """Messages a second that the workers can do, if partitions are alike."""
    each, shared = facts.status.rate_per_replica, facts.status.partitions
    if not each or not shared or not facts.desired or facts.scaling.lag_threshold is not None:
        return None
    if facts.scaling.partition_alignment is PartitionAlignment.NONE:
        return each * facts.desired
    return each * shared / math.ceil(shared / facts.desired)


def patient(facts: Facts) -> bool:
    """Whether more arrives than the workers do, and may wait for now."""
    arriving, demand, able = facts.status.arrival_rate, facts.status.demand_rate, capacity(facts)
    if facts.made_from.asked != Reason.ARRIVALS or not (arriving and demand and able):
        return False
    # Figures of a status have three digits.
    return demand < arriving and math.isclose(demand, able, rel_tol=0.01)


def demand_text(facts: Facts) -> str:
    """What there is to do, up to the number of workers that it needs."""
    status, scaling = facts.status, facts.scaling
    if scaling.lag_threshold is not None:
        each = count(scaling.lag_threshold)
        return f"A lag of {messages(status.lag)}, at {each} for each worker, needs"
    if (facts.made_from.asked or status.reason) == Reason.BACKLOG:
        if status.lag == 0:
            return "With nothing waiting, a binding that does not sleep needs"
        goal = f"within about {scaling.target_lag_seconds:g} s (targetLagSeconds)"
        arriving = f" while {rate(status.arrival_rate)} arrive" if status.arrival_rate else ""
        return f"A backlog of {messages(status.lag)}, to be done {goal}{arriving}, needs"
    goal = f"to keep workers {scaling.target_utilization} % busy at most (targetUtilization)"
    if scaling.target_utilization == FULL:
        goal = "with no headroom (targetUtilization is 100 %)"
    return f"An arrival rate of {rate(status.arrival_rate)}, {goal}, needs"


def _demanded(facts: Facts) -> str:
    if patient(facts):
        return (
            f"{rate(facts.status.arrival_rate)} arrive, more than {workers(facts.desired)} do"
            f" ({rate(facts.status.demand_rate)}), but what waits will still be in time in a minute"
            f" (targetLagSeconds: {facts.scaling.target_lag_seconds:g} s)."
        )
    return f"{demand_text(facts)} {workers(facts.desired)}."


def _limited(text: str) -> Callable[[Facts], str]:
    def sentence(facts: Facts) -> str:
        needed = facts.made_from.needed_replicas
        # A limit may have been applied to the need already.
        more = "more than " if needed is not None and needed <= facts.desired else ""
        return f"{demand_text(facts)} {more}{workers(needed)}, but {limit_text(facts, text)}."

    return sentence


def limit_text(facts: Facts, reason: str) -> str:
    """What a bound says, with its figures."""
    made, status, spec = facts.made_from, facts.status, facts.spec
    condition = facts.condition("ScalingLimited")
    said = condition.message if condition is not None and condition.reason == reason else ""
    in_flight = spec.concurrency.max_in_flight if spec else None
    each_minute = spec.rate_limit.requests_per_minute if spec else None
    texts = {
        Reason.MAX_REPLICAS: "spec.scaling.maxReplicas allows no more than"
        f" {count(made.max_replicas)}",
        Reason.PARTITION_LIMIT: f"no more than {count(status.partitions)} can share"
        f" {partitions(status.partitions)}",
        Reason.SCHEDULE: f"a schedule that is on allows no more than {count(made.max_replicas)}",
        Reason.IN_FLIGHT_LIMIT: "spec.concurrency.maxInFlight allows no more than"
        f" {count(in_flight)} runs at a time",
        Reason.RATE_LIMIT: f"spec.rateLimit allows no more than {count(each_minute)} runs a minute",
    }
    found = known(reason)
    default = said or (ADVICE[found][1].rstrip(".") if found is not None else reason)
    return texts.get(found, default) if found is not None else default


def _lower_bound(facts: Facts) -> str:
    made = facts.made_from
    return (
        f"spec.scaling.minReplicas keeps {count(made.min_replicas)}; the load needs"
        f" {count(made.needed_replicas)}."
    )


def _schedule(facts: Facts) -> str:
    made = facts.made_from
    if made.limited_by == Reason.SCHEDULE:
        return _limited(Reason.SCHEDULE)(facts)
    return (
        f"A schedule of spec.scaling.schedules that is on keeps {count(made.min_replicas)}; the"
        f" load needs {count(made.needed_replicas)}."
    )


def _held(facts: Facts) -> str:
    wanted = facts.made_from.wanted_replicas
    verb = "would do now" if (wanted or 0) <= facts.desired else "are wanted"
    held = hold_text(facts) or "the stabilization window is not over"
    return f"{workers(wanted)} {verb}; it stays at {facts.desired}: {held}."


def _policy(facts: Facts) -> str:
    return (
        f"{workers(facts.made_from.wanted_replicas)} are wanted, {facts.desired} for now: "
        f"{hold_text(facts) or 'a policy of spec.scaling.behavior allows no more'}."
    )


def _idle(facts: Facts) -> str:
    idle = facts.scaling.idle_seconds
    return f"It sleeps: for {idle} s (idleSeconds) or more, no message came and none waited."


def _not_activated(facts: Facts) -> str:
    lag, wanted = facts.status.lag, facts.scaling.activation.lag
    verb = "waits" if lag == 1 else "wait"
    return (
        f"It sleeps: {messages(lag)} {verb}, and more than {count(wanted)} (activation.lag) wake it"
        f" at once; {hold_text(facts) or 'fewer wake it when they have waited long enough'}."
    )


def _unknown(facts: Facts) -> str:
    condition = facts.condition("ScalingActive")
    said = condition.message if condition is not None else ""
    why = said.removeprefix("replicas stay as they are: ").rstrip(".")
    return "The lag is not known, so the number stays as it is" + (f": {why}." if why else ".")


def _fallback(facts: Facts) -> str:
    fallback = facts.scaling.fallback
    if fallback is None:
        return ADVICE[Reason.FALLBACK][1]
    return (
        f"The lag is not known, and {fallback.failure_threshold} looks at Kafka in a row have"
        f" failed: spec.scaling.fallback ({fallback.behavior.value}, {workers(fallback.replicas)})"
        " decides."
    )


def _other(text: str) -> Callable[[Facts], str]:
    def sentence(facts: Facts) -> str:
        number = facts.status.recommended_replicas
        lag = "" if number is None else f" Mode Lag would run {workers(number)}."
        return text + lag

    return sentence


SENTENCES: Mapping[Reason, Callable[[Facts], str]] = {
    Reason.BACKLOG: _demanded,
    Reason.ARRIVALS: _demanded,
    Reason.IDLE: _idle,
    Reason.NOT_ACTIVATED: _not_activated,
    Reason.MIN_REPLICAS: _lower_bound,
    Reason.SCHEDULE: _schedule,
    **{
        reason: _limited(reason)
        for reason in (
            Reason.MAX_REPLICAS,
            Reason.PARTITION_LIMIT,
            Reason.HOT_PARTITION,
            Reason.PARTITION_STALLED,
            Reason.BACKEND_SATURATED,
            Reason.IN_FLIGHT_LIMIT,
            Reason.RATE_LIMIT,
        )
    },
    Reason.STABILIZING: _held,
    Reason.SCALING_POLICY: _policy,
    Reason.LAG_UNKNOWN: _unknown,
    Reason.FALLBACK: _fallback,
    Reason.DRY_RUN: _other("spec.scaling.dryRun is true: the number stays as it is."),
    Reason.STATIC: _other("spec.scaling.mode is Static: spec.scaling.replicas is the number."),
    Reason.EXTERNAL: _other(
        "spec.scaling.mode is External: an HPA, KEDA or kubectl sets spec.scaling.replicas through"
        " the scale subresource."
    ),
    Reason.PAUSED: lambda _: "spec.paused is true: no workers run.",
    Reason.SKIPPED: lambda _: "spec.flow.id is not set: there is nothing to run.",
}
