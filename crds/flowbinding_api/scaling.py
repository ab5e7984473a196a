"""`spec.scaling`: how many workers run, and what decides it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints

from flowbinding_api.base import ApiModel, Rule

Replicas = Annotated[int, Field(ge=0, le=10000)]
SomeReplicas = Annotated[int, Field(ge=1, le=10000)]
WindowSeconds = Annotated[int, Field(ge=0, le=3600)]


def _cron(last_day: int = 7) -> str:
    """A regular expression of five cron fields with their ranges, for the API server too."""
    months = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
    days = "SUN|MON|TUE|WED|THU|FRI|SAT"
    numbers = (
        "[0-5]?[0-9]",
        "1?[0-9]|2[0-3]",
        "[1-9]|[12][0-9]|3[01]",
        f"[1-9]|1[0-2]|{months}",
        f"[0-{last_day}]|{days}",
    )
    fields = []
    for number in numbers:
        item = rf"(\*|({number})(-({number}))?)(/[1-9][0-9]?)?"
        fields.append(f"{item}(,{item})*")
    return "^" + " ".join(fields) + "$"


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        # OSError: a name such as "Europe" is a folder.
        raise ValueError(f"{name!r} is no time zone of the tz database") from None
    return name


Cron = Annotated[str, StringConstraints(max_length=256, pattern=_cron())]
"""Minute, hour, day of the month, month and day of the week."""
JOB_CRON = _cron(last_day=6)
"""The same as CronJobs have it: Sunday is 0 and not 7."""
TimeZone = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$"
    ),
    AfterValidator(_known_zone),
]
"""A name of the tz database."""


class ScalingMode(StrEnum):
    """Who decides the number of replicas."""

    LAG = "Lag"
    STATIC = "Static"
    EXTERNAL = "External"


class PartitionAlignment(StrEnum):
    """Which counts of workers are worth having, since a partition has one worker."""

    BALANCED = "Balanced"
    EXACT = "Exact"
    NONE = "None"


class PolicyType(StrEnum):
    """What a scaling policy counts in."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several policies counts."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class FallbackBehavior(StrEnum):
    """What a fallback makes of the current number of workers (KEDA's words)."""

    STATIC = "Static"
    CURRENT_REPLICAS = "CurrentReplicas"
    CURRENT_REPLICAS_IF_HIGHER = "CurrentReplicasIfHigher"
    CURRENT_REPLICAS_IF_LOWER = "CurrentReplicasIfLower"


class ScalingPolicy(ApiModel):
    """How much the number of workers may change within a time."""

    type: PolicyType
    """Pods, or Percent of the workers at the start of the period."""
    value: Annotated[int, Field(ge=1, le=10000)]
    """How many Pods, or how many percent."""
    period_seconds: Annotated[int, Field(ge=1, le=1800)]
    """The time in which no more than that may change."""


class ScalingRules(ApiModel):
    """Damping in one direction, in the HorizontalPodAutoscaler's words."""

    stabilization_window_seconds: WindowSeconds = 0
    """A change happens only to what was wanted throughout this window."""
    policies: Annotated[list[ScalingPolicy], Field(max_length=16)] = Field(default_factory=list)
    """Limits to the speed of change; none when empty. A worker is always let in when there is
    none."""
    select_policy: SelectPolicy = SelectPolicy.MAX
    """Which policy counts: the one that allows most (Max), or least (Min). Disabled: no change in
    this direction."""


class ScaleDownRules(ScalingRules):
    """Damping of scale-down."""

    stabilization_window_seconds: WindowSeconds = 120
    """A scale-down goes to the highest number that was wanted within this window."""
    policies: Annotated[list[ScalingPolicy], Field(max_length=16)] = Field(default_factory=list)
    """Limits to the speed of change; none when empty. Falling asleep is not limited."""


class Behavior(ApiModel):
    """Damping of scale-up and scale-down."""

    scale_up: ScalingRules = ScalingRules()
    """Damping of scale-up: at once by default."""
    scale_down: ScaleDownRules = ScaleDownRules()
    """Damping of scale-down: two minutes by default."""


class Activation(ApiModel):
    """What wakes a binding without workers: either of the two."""

    lag: Annotated[int, Field(ge=0, le=1000000000)] = 0
    """More messages than these wake it at once."""
    max_age_seconds: Annotated[float, Field(ge=0, le=86400)] = 30
    """Any message that has waited for so long wakes it."""


class Fallback(ApiModel):
    """What happens when the lag stays unknown. Without it, the workers stay as they are."""

    failure_threshold: Annotated[int, Field(ge=1, le=10000)] = 30
    """So many looks at Kafka in a row have to fail."""
    replicas: SomeReplicas
    """How many workers then run, within minReplicas and maxReplicas."""
    behavior: FallbackBehavior = FallbackBehavior.CURRENT_REPLICAS_IF_HIGHER
    """Static: `replicas`. CurrentReplicas: as they are. CurrentReplicasIfHigher and
    CurrentReplicasIfLower: the higher, or the lower, of the two."""


class Schedule(ApiModel):
    """Other bounds at certain times, by the clock on the wall of a time zone."""

    time_zone: TimeZone = "Etc/UTC"
    """Name in the tz database, e.g. Europe/Berlin."""
    start: Cron
    """When it begins: cron with minute, hour, day of the month, month, day of the week."""
    end: Cron
    """When it ends, in the same way."""
    min_replicas: Replicas | None = None
    """Lower bound meanwhile; of several schedules at a time the highest counts."""
    max_replicas: SomeReplicas | None = None
    """Upper bound meanwhile; of several schedules at a time the highest counts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.minReplicas) || has(self.maxReplicas)",
            "set minReplicas, maxReplicas or both",
            holds=lambda schedule: (
                schedule["minReplicas"] is not None or schedule["maxReplicas"] is not None
            ),
        ),
        Rule(
            "!has(self.minReplicas) || !has(self.maxReplicas)"
            " || self.minReplicas <= self.maxReplicas",
            "must not exceed maxReplicas",
            "minReplicas",
            lambda schedule: (
                None in (schedule["minReplicas"], schedule["maxReplicas"])
                or bool(schedule["minReplicas"] <= schedule["maxReplicas"])
            ),
        ),
    )


class Scaling(ApiModel):
    """How many workers run."""

    mode: ScalingMode = ScalingMode.LAG
    """Lag: from the backlog. Static: `replicas`. External: an HPA or KEDA drives `replicas` through
    the scale subresource."""
    replicas: Replicas = 1
    """Replicas in the modes Static and External."""
    min_replicas: Replicas = 0
    """Lower bound in mode Lag; 0 lets an idle binding sleep."""
    max_replicas: SomeReplicas = 10
    """Upper bound in mode Lag; the number of partitions is one as well."""
    target_lag_seconds: Annotated[float, Field(gt=0, le=86400)] = 30
    """How soon a backlog should be gone."""
    target_utilization: Annotated[int, Field(ge=10, le=100)] = 100
    """Percent of the busiest worker's slots that arrivals may take. 100: there are as few workers
    as keep up, and a rate may rise beyond them as long as no message waits for longer than
    targetLagSeconds. Less keeps headroom: workers come as soon as arrivals take more."""
    lag_threshold: Annotated[int, Field(ge=1, le=1000000000)] | None = None
    """Messages of lag per replica, as KEDA counts; when set, it replaces targetLagSeconds,
    targetUtilization and partitionAlignment."""
    expected_seconds_per_message: Annotated[float, Field(gt=0, le=86400)] = 1
    """Seconds that one run takes, until workers have measured it."""
    partition_alignment: PartitionAlignment = PartitionAlignment.BALANCED
    """Partitions are assigned whole, so most counts of workers are no faster than a lower one.
    Balanced: the lowest with the same busiest worker. Exact: only divisors of the partitions.
    None: any."""
    activation: Activation = Activation()
    """What wakes a binding without workers."""
    idle_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """How long nothing may have happened before the last worker goes."""
    behavior: Behavior = Behavior()
    """Damping, in the HorizontalPodAutoscaler's shape."""
    fallback: Fallback | None = None
    """What happens when the lag stays unknown; the workers stay as they are when absent."""
    schedules: Annotated[list[Schedule], Field(max_length=32)] = Field(default_factory=list)
    """Other bounds at certain times, in mode Lag."""
    dry_run: bool = False
    """True: mode Lag only recommends (status.recommendedReplicas); the workers stay as they are."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "must not exceed maxReplicas",
            "minReplicas",
            lambda scaling: bool(scaling["minReplicas"] <= scaling["maxReplicas"]),
        ),
    )
