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
    reason: str | None = None
    """Why desiredReplicas is what it is."""
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
