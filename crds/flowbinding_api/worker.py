"""`spec.worker`: the worker Pods, in the words of the Pod API."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from flowbinding_api.base import ApiModel, ConfigMapKeyRef, ObjectName, SecretKeyRef

QUANTITY = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]+)?$"
Quantity = Annotated[
    str,
    StringConstraints(max_length=64, pattern=QUANTITY),
    # `cpu: 1` is a number in YAML, and as good as "1".
    BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value),
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
]
"""A Kubernetes quantity, e.g. 100m or 512Mi."""
ResourceName = Annotated[str, StringConstraints(max_length=253)]
LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]
Text = Annotated[str, StringConstraints(max_length=32768)]
EnvName = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z][-._a-zA-Z0-9]*$")
]


class LogLevel(StrEnum):
    """How much a worker logs. Only Debug may show payloads."""

    DEBUG = "Debug"
    INFO = "Info"
    WARNING = "Warning"
    ERROR = "Error"


class PullPolicy(StrEnum):
    """When a node pulls the image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class Resources(ApiModel):
    """Compute resources of a worker Pod."""

    requests: Annotated[dict[ResourceName, Quantity], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """What a Pod is guaranteed, e.g. cpu: 100m."""
    limits: Annotated[dict[ResourceName, Quantity], Field(max_length=16)] = Field(
        default_factory=dict
    )
    """What a Pod may use at most, e.g. memory: 512Mi."""


class FieldRef(ApiModel):
    """A field of the Pod."""

    field_path: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    """Path of the field, e.g. metadata.name."""


class EnvVarSource(ApiModel):
    """Where the value of an environment variable comes from."""

    secret_key_ref: SecretKeyRef | None = None
    """A key of a Secret."""
    config_map_key_ref: ConfigMapKeyRef | None = None
    """A key of a ConfigMap."""
    field_ref: FieldRef | None = None
    """A field of the Pod."""


class EnvVar(ApiModel):
    """An environment variable of the worker."""

    name: EnvName
    """Name of the variable."""
    value: Text | None = None
    """Its value."""
    value_from: EnvVarSource | None = None
    """Where its value comes from."""


class LocalObjectReference(ApiModel):
    """An object in the binding's namespace."""

    name: ObjectName
    """Its name."""


class Toleration(ApiModel):
    """A taint that worker Pods tolerate."""

    key: LabelKey | None = None
    """Taint key; empty matches all keys."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """How the value is compared: Exists or Equal."""
    value: LabelValue | None = None
    """Taint value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Taint effect; empty matches all."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a NoExecute taint is tolerated."""


class SpreadConstraint(ApiModel):
    """How worker Pods are spread. The operator adds the label selector of the binding's workers."""

    max_skew: Annotated[int, Field(ge=1, le=10000)] = 1
    """Highest difference in Pods between two domains."""
    topology_key: LabelKey
    """Node label that makes a domain, e.g. topology.kubernetes.io/zone."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """What happens to a Pod that would break the constraint."""


class Worker(ApiModel):
    """The worker Pods. Omitted fields take the operator's defaults."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=1024)] | None = None
    """Container image; the operator's default when absent."""
    image_pull_policy: PullPolicy | None = None
    """When the image is pulled; Kubernetes' own default when absent."""
    image_pull_secrets: Annotated[list[LocalObjectReference], Field(max_length=16)] = Field(
        default_factory=list
    )
    """Secrets for pulling the image."""
    resources: Resources = Resources()
    """Compute resources of each Pod."""
    env: Annotated[list[EnvVar], Field(max_length=128)] = Field(default_factory=list)
    """More environment variables. FLOWBINDING__FLOW__URL=... overrides spec.flow.url, and so on."""
    node_selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """Node labels that a Pod needs."""
    tolerations: Annotated[list[Toleration], Field(max_length=32)] = Field(default_factory=list)
    """Taints that Pods tolerate."""
    affinity: dict[str, Any] = Field(default_factory=dict)
    """Affinity, as in a Pod; checked by the API server when the Deployment is written."""
    topology_spread_constraints: Annotated[list[SpreadConstraint], Field(max_length=16)] = Field(
        default_factory=list
    )
    """How Pods are spread over the cluster."""
    service_account_name: ObjectName | None = None
    """Service account of the Pods. No token is mounted."""
    pod_labels: Annotated[dict[LabelKey, LabelValue], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """More labels for the Pods."""
    pod_annotations: Annotated[dict[LabelKey, Text], Field(max_length=64)] = Field(
        default_factory=dict
    )
    """More annotations for the Pods."""
    termination_grace_period_seconds: Annotated[int, Field(ge=1, le=10800)] | None = None
    """Seconds between SIGTERM and SIGKILL; flow.timeoutSeconds + 15 when absent."""
    log_level: LogLevel = LogLevel.INFO
    """How much a worker logs. Only Debug may show payloads."""
