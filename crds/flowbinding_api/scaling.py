"""`spec.scaling`: how many workers run, and what decides it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from flowbinding_api.base import ApiModel, Rule

Replicas = Annotated[int, Field(ge=0, le=10000)]
WindowSeconds = Annotated[int, Field(ge=0, le=3600)]


class ScalingMode(StrEnum):
    """Who decides the number of replicas."""

    LAG = "Lag"
    STATIC = "Static"
    EXTERNAL = "External"


class ScalingRules(ApiModel):
    """Damping in one direction, in the HorizontalPodAutoscaler's words."""

    stabilization_window_seconds: WindowSeconds = 0
    """A change happens only to what was wanted throughout this window."""


class ScaleDownRules(ApiModel):
    """Damping of scale-down."""

    stabilization_window_seconds: WindowSeconds = 120
    """A scale-down goes to the highest number that was wanted within this window."""


class Behavior(ApiModel):
    """Damping of scale-up and scale-down."""

    scale_up: ScalingRules = ScalingRules()
    """Damping of scale-up: at once by default."""
    scale_down: ScaleDownRules = ScaleDownRules()
    """Damping of scale-down: two minutes by default."""


class Scaling(ApiModel):
    """How many workers run."""

    mode: ScalingMode = ScalingMode.LAG
    """Lag: from the backlog. Static: `replicas`. External: an HPA or KEDA drives `replicas` through
    the scale subresource."""
    replicas: Replicas = 1
    """Replicas in the modes Static and External."""
    min_replicas: Replicas = 0
    """Lower bound in mode Lag; 0 lets an idle binding sleep."""
    max_replicas: Annotated[int, Field(ge=1, le=10000)] = 10
    """Upper bound in mode Lag; the number of partitions is one as well."""
    target_lag_seconds: Annotated[float, Field(gt=0, le=86400)] = 30
    """How soon a backlog should be gone."""
    lag_threshold: Annotated[int, Field(ge=1, le=1000000000)] | None = None
    """Messages of lag per replica, as KEDA counts; when set, it replaces targetLagSeconds."""
    expected_seconds_per_message: Annotated[float, Field(gt=0, le=86400)] = 1
    """Seconds that one run takes, until workers have measured it."""
    idle_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """How long nothing may have happened before the last worker goes."""
    behavior: Behavior = Behavior()
    """Damping, in the HorizontalPodAutoscaler's shape."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minReplicas <= self.maxReplicas",
            "must not exceed maxReplicas",
            "minReplicas",
            lambda scaling: bool(scaling["minReplicas"] <= scaling["maxReplicas"]),
        ),
    )
