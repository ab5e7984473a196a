"""The FlowBinding document: parsing, with every problem named by its field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from flowbinding_api.base import DNS_LABEL, DNS_SUBDOMAIN, ApiModel
from flowbinding_api.errors import InvalidBindingError, Problem
from flowbinding_api.spec import FlowBindingSpec

GROUP = "flowbinding.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FlowBinding"
PLURAL = "flowbindings"
SHORT_NAME = "fb"

MAX_NAME = 56
"""Longest name of a binding: `<name>-worker` still has to fit a label value (63 characters)."""


class Metadata(ApiModel):
    """The part of ObjectMeta that FlowBinding reads."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=DNS_SUBDOMAIN)
    ]
    namespace: Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=DNS_LABEL)] = (
        "default"
    )
    uid: str | None = None
    generation: int | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class FlowBinding(ApiModel):
    """A whole FlowBinding manifest. `status` is the operator's and is ignored when reading."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True
    )

    api_version: Literal["flowbinding.io/v1alpha1"]
    kind: Literal["FlowBinding"]
    metadata: Metadata
    spec: FlowBindingSpec
    status: dict[str, Any] | None = Field(default=None, exclude=True)

    @property
    def key(self) -> str:
        """`<namespace>/<name>`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def consumer_group(self) -> str:
        """The Kafka consumer group: the user's, else `<namespace>.<name>`."""
        group = self.spec.source.consumer_group
        return group or f"{self.metadata.namespace}.{self.metadata.name}"

    def dead_letter_topic(self, source_topic: str) -> str | None:
        """Topic for dead letters of `source_topic`; None when they are switched off."""
        if not self.spec.dead_letter.enabled:
            return None
        return self.spec.dead_letter.topic or f"{source_topic}.{self.metadata.name}.dlq"

    def document(self) -> dict[str, Any]:
        """The manifest as plain data in the API's spelling, defaults filled in, nulls left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def parse_binding(document: Mapping[str, Any]) -> FlowBinding:
    """Check a manifest against the API, templates included.

    Args:
        document: A manifest as `yaml.safe_load` or the API server gives it. Nulls count as absent,
            as they do for the API server.

    Raises:
        InvalidBindingError: Listing every problem with the path of its field.
    """
    try:
        return FlowBinding.model_validate(_without_nulls(document))
    except ValidationError as error:
        raise InvalidBindingError([_problem(item) for item in error.errors()]) from None


def load_binding(text: str) -> FlowBinding:
    """Parse one YAML (or JSON) manifest; see `parse_binding`.

    Raises:
        InvalidBindingError: Also when the text is no YAML or no mapping.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidBindingError([Problem("", f"not valid YAML: {error}")]) from None
    if not isinstance(document, Mapping):
        shape = type(document).__name__
        raise InvalidBindingError(
            [Problem("", f"expected one FlowBinding manifest (a mapping), got {shape}")]
        )
    return parse_binding(document)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return value


def _problem(item: Any) -> Problem:
    """One pydantic error as a field path and a sentence.

    Model validators cannot point at a field, so their messages start with `field: ` when they mean
    one; it moves into the path here.
    """
    path = _path(item["loc"])
    message = item["msg"]
    if item["type"] == "value_error":
        message = message.removeprefix("Value error, ")
        field, separator, rest = message.partition(": ")
        if separator and " " not in field:
            path, message = f"{path}.{field}" if path else field, rest
    elif item["type"] == "extra_forbidden":
        message = "unknown field"
    elif item["type"] == "missing":
        message = "required"
    elif not isinstance(item.get("input"), Mapping | list):
        message = f"{message}, got {type(item['input']).__name__} {_clip(repr(item['input']))}"
    return Problem(path, message)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _clip(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
