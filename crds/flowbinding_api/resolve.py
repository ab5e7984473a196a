"""From what the user wrote to what runs: operator defaults, then environment overrides."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from flowbinding_api.base import ApiModel
from flowbinding_api.binding import FlowBinding, model_in
from flowbinding_api.errors import InvalidBindingError, Problem
from flowbinding_api.kafka import Kafka
from flowbinding_api.spec import FlowBindingSpec

OVERRIDE_PREFIX = "FLOWBINDING__"
"""Environment variables `FLOWBINDING__<FIELD>__<FIELD>=value` override `spec.<field>.<field>`."""


def with_kafka_defaults(binding: FlowBinding, defaults: Kafka) -> FlowBinding:
    """Fill the fields of `spec.kafka` that the user left out."""
    given = binding.spec.kafka
    merged = Kafka(
        bootstrap_servers=given.bootstrap_servers or defaults.bootstrap_servers,
        tls=given.tls if given.tls is not None else defaults.tls,
        sasl=given.sasl if given.sasl is not None else defaults.sasl,
        schema_registry=given.schema_registry,
    )
    spec = binding.spec.model_copy(update={"kafka": merged})
    return binding.model_copy(update={"spec": spec})


def with_overrides(document: Any, environment: Mapping[str, str]) -> Any:
    """A manifest, not checked yet, with `FLOWBINDING__…` variables in its spec; they win.

    Field names are matched without regard to case or underscores, so that
    `FLOWBINDING__FLOW__TIMEOUT_SECONDS` and `FLOWBINDING__FLOW__TIMEOUTSECONDS` are one. Values are
    read as the field's type, else as YAML, so that lists and objects work; `null` removes an
    optional field. A name that the API does not have is kept as it is: parsing then refuses it.

    Args:
        document: The manifest as YAML gives it; left alone unless it is a mapping.
        environment: All variables; others than these are ignored.

    Raises:
        InvalidBindingError: When a variable's name is no path of fields.
    """
    names = [name for name in sorted(environment) if name.startswith(OVERRIDE_PREFIX)]
    if not names or not isinstance(document, Mapping):
        return document
    changed = copy.deepcopy(dict(document))
    spec = changed.setdefault("spec", {})
    for name in names:
        parts = name.removeprefix(OVERRIDE_PREFIX).split("__")
        if not all(parts) or not isinstance(spec, dict):
            raise InvalidBindingError(
                [Problem(name, "expected FLOWBINDING__FIELD__FIELD, e.g. FLOWBINDING__FLOW__URL")]
            )
        _set(spec, parts, environment[name])
    return changed


def _set(spec: dict[str, Any], parts: list[str], text: str) -> None:
    """Put `text` at `parts` below `spec`, in the API's spelling of the field names."""
    target = spec
    model: type[ApiModel] | None = FlowBindingSpec
    for index, part in enumerate(parts):
        name, annotation = _field(model, part)
        model = model_in(annotation)
        if index == len(parts) - 1:
            target[name] = _value(annotation, text)
            return
        if not isinstance(target.get(name), dict):
            if target.get(name) is not None:
                raise InvalidBindingError(
                    [Problem(OVERRIDE_PREFIX + "__".join(parts), f"{name} has no fields")]
                )
            target[name] = {}
        target = target[name]


def _field(model: type[ApiModel] | None, part: str) -> tuple[str, Any]:
    wanted = part.replace("_", "").lower()
    for name, info in (model.model_fields if model is not None else {}).items():
        if name.replace("_", "") == wanted:
            return info.alias or name, info.annotation
    return part, None


def _value(annotation: Any, text: str) -> Any:
    """`text` as the field's own type where it fits (a flow id `123` stays text), else as YAML."""
    optional = type(None) in getattr(annotation, "__args__", ())
    if optional and text in ("", "~", "null"):
        return None
    try:
        if annotation is not None:
            return TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        pass
    try:
        if text.startswith(("{", "[")):
            # YAML reads JSON's surrogate pairs and control characters otherwise.
            return json.loads(text)
    except ValueError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
