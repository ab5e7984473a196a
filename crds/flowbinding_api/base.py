"""Building blocks of the models: the strict base class, references, names, and CEL rules.

The models are the only source of truth for the API: the CRD, the offline validation and the field
reference are all made from them. A rule that spans several fields is stated once as a `Rule`: its
CEL text goes into the CRD, its Python twin runs when a manifest is parsed, both with one message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints
from pydantic.alias_generators import to_camel

from flowbinding_api.templates import (
    REQUEST_NAMES,
    RESULT_NAMES,
    checked_expression,
    checked_leaves,
    checked_template,
)

SECRETS_DIRECTORY = "/var/run/flowbinding/secrets"
"""Where a worker finds Secrets: `<directory>/<secret name>/<key>`."""

CONFIGMAPS_DIRECTORY = "/var/run/flowbinding/configmaps"
"""Where a worker finds ConfigMaps: `<directory>/<config map name>/<key>`."""

FLOW_VOLUME_DIRECTORY = "/var/run/flowbinding/flow"
"""Where a worker finds the volume with its flow file."""

SPOOL_DIRECTORY = "/var/run/flowbinding/spool"
"""Where a worker keeps results while Kafka does not take them."""


def _always(_: Mapping[str, Any]) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Rule:
    """A constraint over several fields of one object.

    Attributes:
        cel: Expression of the API server's `x-kubernetes-validations`, over `self` (and `oldSelf`).
        message: What a user reads when it does not hold.
        field: Path of the field to point at, as the user writes it; empty for the object itself.
        holds: The same in Python, over the object as plain data in the API's spelling: every field
            is there, with its default or None. May raise what wrong types raise; they are reported
            by themselves. Rules about a change hold for every single manifest.
    """

    cel: str
    message: str
    field: str = ""
    holds: Callable[[Mapping[str, Any]], bool] = _always


class ApiModel(BaseModel):
    """Base of every API object: camelCase outside, snake_case inside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="null",
    )

    rules: ClassVar[tuple[Rule, ...]] = ()
    """Cross-field rules that the generated CRD carries for this object."""


DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

TopicName = Annotated[
    str, StringConstraints(min_length=1, max_length=249, pattern=r"^[a-zA-Z0-9._-]+$")
]
"""A Kafka topic name (Kafka allows 249 characters of this set)."""

ObjectName = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
"""The name of a Kubernetes object."""

DataKey = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")
]
"""A key in a Secret or a ConfigMap."""

Template = Annotated[str, StringConstraints(max_length=65536), AfterValidator(checked_template)]
"""A sandboxed Jinja2 template."""

RequestTemplate = Annotated[
    str,
    StringConstraints(max_length=65536),
    AfterValidator(lambda text: checked_template(text, REQUEST_NAMES)),
]
"""A template that sees the rendered input and session as well."""

HeaderTemplate = Annotated[
    str,
    StringConstraints(max_length=8192),
    AfterValidator(lambda text: checked_template(text, REQUEST_NAMES)),
]
"""The same for a header, which servers take up to about this length."""

ResultTemplate = Annotated[
    str,
    StringConstraints(max_length=65536),
    AfterValidator(lambda text: checked_template(text, RESULT_NAMES)),
]
"""A template that sees the result as well."""

Expression = Annotated[
    str, StringConstraints(min_length=1, max_length=4096), AfterValidator(checked_expression)
]
"""A Jinja2 expression, without braces."""

ResultExpression = Annotated[
    str,
    StringConstraints(min_length=1, max_length=4096),
    AfterValidator(lambda text: checked_expression(text, RESULT_NAMES)),
]
"""An expression that sees the result as well."""

TemplateTree = Annotated[dict[str, Any], AfterValidator(checked_leaves)]
"""Free-form data in which every string is a template."""

RequestTree = Annotated[
    dict[str, Any], AfterValidator(lambda value: checked_leaves(value, REQUEST_NAMES))
]
"""The same, with templates that see the rendered input and session as well."""

_UNITS: dict[str, int] = {"": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4} | {
    unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), 1)
}
SizeLimit = Annotated[
    str, StringConstraints(max_length=16, pattern=r"^(0|[1-9][0-9]{0,12}(k|M|G|T|Ki|Mi|Gi|Ti)?)$")
]
"""A whole number of bytes as a Kubernetes quantity, e.g. 256Mi."""


def size_in_bytes(size: str) -> int:
    """A `SizeLimit` in bytes."""
    digits = size.rstrip("kKMGTi")
    return int(digits) * _UNITS[size.removeprefix(digits)]


Url = Annotated[
    str, StringConstraints(min_length=8, max_length=2048, pattern=r"^https?://[^\s/]+[^\s]*$")
]
"""An absolute http or https URL."""


class SecretKeyRef(ApiModel):
    """One key of a Secret in the binding's namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: DataKey
    """Key within the Secret."""


class ConfigMapKeyRef(ApiModel):
    """One key of a ConfigMap in the binding's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: DataKey
    """Key within the ConfigMap."""


CERTIFICATE_AND_KEY = Rule(
    "has(self.certificateSecretRef) == has(self.keySecretRef)",
    "set both or none of certificateSecretRef and keySecretRef",
    holds=lambda tls: (tls["certificateSecretRef"] is None) == (tls["keySecretRef"] is None),
)
"""A client certificate is of no use without its key; of TLS to brokers and to flow servers."""
