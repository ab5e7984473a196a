"""`status`: what the operator reports. Conditions follow metav1.Condition."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from flowbinding_api.base import ApiModel


class ConditionType(StrEnum):
    """What a condition speaks of."""

    READY = "Ready"
    TOPIC_AVAILABLE = "TopicAvailable"
    FLOW_CONFIGURED = "FlowConfigured"
    FLOW_REACHABLE = "FlowReachable"
    WORKERS_AVAILABLE = "WorkersAvailable"
    SCALING_ACTIVE = "ScalingActive"
    SCALING_LIMITED = "ScalingLimited"
    PAUSED = "Paused"
    DEGRADED = "Degraded"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(ApiModel):
    """One aspect of a binding's state (metav1.Condition)."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """Aspect, e.g. TopicAvailable."""
    status: ConditionStatus
    """True, False or Unknown."""
    reason: Annotated[
        str,
        StringConstraints(
            min_length=1, max_length=1024, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
        ),
    ]
    """Why, as one CamelCase word."""
    message: Annotated[str, StringConstraints(max_length=32768)] = ""
    """Why, as a sentence for people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When the status last flipped."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """Generation of the spec that this speaks of."""


class Hold(StrEnum):
    """What has to pass before the number of workers changes."""

    SETTLING = "Settling"
    STABILIZATION_WINDOW = "StabilizationWindow"
    OBSERVING = "Observing"
    MARGIN = "Margin"
    SCALING_POLICY = "ScalingPolicy"
    IDLE_SECONDS = "IdleSeconds"
    ACTIVATION_AGE = "ActivationAge"


class ScalingStatus(ApiModel):
    """What the number of workers was made from. Rates and the lag are beside it, in `status`."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When this last changed."""
    asked: str | None = None
    """What asks for workers, whatever bounds and damping make of it: Backlog, Arrivals, Idle or
    NotActivated."""
    limited_by: str | None = None
    """What keeps it from wanting more."""
    needed_replicas: int | None = None
    """Worker Pods that are needed, before bounds and damping."""
    wanted_replicas: int | None = None
    """The same within the bounds, before damping."""
    min_replicas: int | None = None
    """Lower bound in force: minReplicas, or a schedule's."""
    max_replicas: int | None = None
    """Upper bound in force: maxReplicas, or a schedule's."""
    active_partitions: int | None = None
    """Partitions that have had messages lately; more workers than these have nothing to do. Absent
    at rest."""
    fast_arrival_rate: float | None = None
    """Messages per second that arrived in the last 30 s."""
    slow_arrival_rate: float | None = None
    """Messages per second that arrived in the last 3 min."""
    slots_per_replica: float | None = None
    """Runs that one worker has in flight at most, by its own word: fewer than perReplica while the
    backend asks for less."""
    hold: Hold | None = None
    """What has to pass before the number changes by itself."""
    hold_until: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When it will have passed, if nothing else happens."""


class FlowBindingStatus(ApiModel):
    """What the operator saw last."""

    # A newer operator may have written fields that this one does not know.
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    observed_generation: int | None = None
    """Generation of the spec that this status speaks of."""
    replicas: int = 0
    """Worker Pods that exist."""
    ready_replicas: int = 0
    """Worker Pods that are ready."""
    desired_replicas: int | None = None
    """Worker Pods that should run."""
    recommended_replicas: int | None = None
    """Worker Pods that mode Lag would run, whatever the mode, also with dryRun; absent while
    unknown."""
    selector: str | None = None
    """Label selector of the worker Pods, for the scale subresource."""
    consumer_group: str | None = None
    """Kafka consumer group of the workers."""
    partitions: int | None = None
    """Partitions of all source topics together."""
    lag: int | None = None
    """Messages not yet done; absent while unknown."""
    lag_seconds: float | None = None
    """Age of the oldest message not yet done, in seconds, as far as workers report it."""
    arrival_rate: float | None = None
    """Messages per second that arrive."""
    demand_rate: float | None = None
    """Messages per second that workers have to do: what arrives, with its headroom or with the
    backlog."""
    rate_per_replica: float | None = None
    """Messages per second that one worker can do."""
    seconds_per_message: float | None = None
    """Seconds that one run takes, as measured last."""
    last_scale_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = None
    """When desiredReplicas last changed."""
    last_schedule_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None = (
        None
    )
    """With source.schedule: when a run was due last."""
    last_successful_time: (
        Annotated[str, Field(json_schema_extra={"format": "date-time"})] | None
    ) = None
    """With source.schedule: when a run ended well last."""
    flow_version: str | None = None
    """Version of the Langflow server, as it told the operator last."""
    reason: str | None = None
    """Why desiredReplicas is what it is; with source.schedule, how the last run stands."""
    scaling: ScalingStatus | None = None
    """What desiredReplicas was made from: `flowbinding explain` puts it into words."""
    conditions: Annotated[
        list[Condition],
        Field(
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            }
        ),
    ] = Field(default_factory=list)
    """Aspects of the state, one of each type."""
