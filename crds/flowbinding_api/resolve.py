"""From what the user wrote to what runs: operator defaults, then environment overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from flowbinding_api.binding import FlowBinding, parse_binding
from flowbinding_api.errors import InvalidBindingError, Problem
from flowbinding_api.spec import FlowBindingSpec, Kafka

OVERRIDE_PREFIX = "FLOWBINDING__"
"""Environment variables `FLOWBINDING__<FIELD>__<FIELD>=value` override `spec.<field>.<field>`."""


def with_kafka_defaults(binding: FlowBinding, defaults: Kafka) -> FlowBinding:
    """Fill the fields of `spec.kafka` that the user left out."""
    given = binding.spec.kafka
    merged = Kafka(
        bootstrap_servers=given.bootstrap_servers or defaults.bootstrap_servers,
        tls=given.tls if given.tls is not None else defaults.tls,
        sasl=given.sasl if given.sasl is not None else defaults.sasl,
    )
    spec = binding.spec.model_copy(update={"kafka": merged})
    return binding.model_copy(update={"spec": spec})


def with_overrides(binding: FlowBinding, environment: Mapping[str, str]) -> FlowBinding:
    """Apply `FLOWBINDING__…` variables to the spec; the environment wins.

    Field names are matched without regard to case or underscores, so that
    `FLOWBINDING__FLOW__TIMEOUT_SECONDS` and `FLOWBINDING__FLOW__TIMEOUTSECONDS` are one. Values are
    read as YAML, so that numbers, booleans and lists work; text that is no YAML stays text.

    Raises:
        InvalidBindingError: Naming the field, when a value does not fit.
    """
    document = binding.document()
    names = [name for name in sorted(environment) if name.startswith(OVERRIDE_PREFIX)]
    if not names:
        return binding
    for name in names:
        parts = name.removeprefix(OVERRIDE_PREFIX).split("__")
        if not all(parts):
            raise InvalidBindingError(
                [Problem(name, "expected FLOWBINDING__FIELD__FIELD, e.g. FLOWBINDING__FLOW__URL")]
            )
        _set(document["spec"], parts, environment[name])
    return parse_binding(document)


def _set(target: dict[str, Any], parts: list[str], text: str) -> None:
    """Put `text` at `parts` below `target`, in the API's spelling of the field names.

    A name that the API does not have is kept as it is: parsing then refuses it with its path.
    """
    model: Any = FlowBindingSpec
    annotation: Any = None
    for index, part in enumerate(parts):
        name, annotation = _field(getattr(model, "model_fields", {}), part)
        model = _model_in(annotation)
        if index == len(parts) - 1:
            target[name] = _value(annotation, text)
        elif isinstance(target.setdefault(name, {}), dict):
            target = target[name]
        else:
            raise InvalidBindingError(
                [Problem(OVERRIDE_PREFIX + "__".join(parts), f"{name} has no fields")]
            )


def _field(fields: Any, part: str) -> tuple[str, Any]:
    wanted = part.replace("_", "").lower()
    for name, info in fields.items():
        if name.replace("_", "") == wanted:
            return info.alias or name, info.annotation
    return part, None


def _model_in(annotation: Any) -> Any:
    """The model class within an annotation such as `Output | None`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(
        (a for a in getattr(annotation, "__args__", ()) if hasattr(a, "model_fields")), None
    )


def _value(annotation: Any, text: str) -> Any:
    """`text` as the field's own type where it fits (a flow id `123` stays text), else as YAML."""
    try:
        if annotation is not None:
            return TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        pass
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
