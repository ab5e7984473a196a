"""What a binding refers to in Secrets and ConfigMaps, and what is wrong with it. Pure."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from flowbinding_api.base import ConfigMapKeyRef, SecretKeyRef
from flowbinding_api.binding import FlowBinding
from flowbinding_api.reasons import Reason

Kind = Literal["Secret", "ConfigMap"]

_REGISTRY = "spec.kafka.schemaRegistry."


@dataclass(frozen=True, slots=True)
class Reference:
    """One key that must exist.

    Attributes:
        field: Path of the referring field, as the user writes it.
    """

    kind: Kind
    name: str
    key: str
    field: str

    @property
    def mounted(self) -> bool:
        """Whether the worker reads it as a file; the kubelet reads what the environment needs."""
        return not self.field.startswith("spec.worker.")

    @property
    def reloaded(self) -> bool:
        """Whether a running worker notices a change: it reads what servers ask for anew."""
        return self.field.startswith(("spec.flow.", _REGISTRY))

    @property
    def of_kafka(self) -> bool:
        """Whether the operator itself needs it, to ask Kafka."""
        return self.field.startswith("spec.kafka.") and not self.field.startswith(_REGISTRY)


@dataclass(frozen=True, slots=True)
class Missing:
    """A reference that leads nowhere, or to something unusable or unreadable."""

    reason: Reason
    message: str
    field: str


Objects = Mapping[tuple[Kind, str], Mapping[str, Any] | None]
"""Secrets and ConfigMaps by kind and name; None: there is none of that name."""


def references(binding: FlowBinding) -> tuple[Reference, ...]:
    """Every reference of a spec, found by its type, so that a new field needs no change here."""
    return tuple(dict.fromkeys(references_in("spec", binding.spec)))


def check(
    wanted: tuple[Reference, ...],
    objects: Objects,
    binding: FlowBinding,
    refused: Mapping[tuple[Kind, str], str],
) -> Missing | None:
    """The first thing wrong with the references, if any.

    Args:
        wanted: What the binding refers to.
        objects: What of it was found.
        binding: The binding.
        refused: By kind and name, the API server's words about what it did not let us read.
    """
    for reference in wanted:
        found = objects.get((reference.kind, reference.name))
        if found is not None and reference.key in data(found):
            continue
        what = f"{reference.kind} {binding.metadata.namespace}/{reference.name}"
        words = refused.get((reference.kind, reference.name))
        if words is not None:
            text = f"{what} cannot be read (field {reference.field}): {words}"
            return Missing(Reason.KUBERNETES_FORBIDDEN, text, reference.field)
        message = (
            f"{what} does not exist" if found is None else f"{what} has no key {reference.key!r}"
        )
        missing_secret = reference.kind == "Secret"
        reason = Reason.SECRET_MISSING if missing_secret else Reason.CONFIG_MAP_MISSING
        text = f"{message} (key {reference.key!r}, field {reference.field})"
        return Missing(reason, text, reference.field)
    return None


def flow_file_problem(binding: FlowBinding, objects: Objects) -> Missing | None:
    """What is wrong with the flow JSON of the Local backend, if it comes from a ConfigMap."""
    file = binding.spec.flow.file
    reference = file.config_map_key_ref if file else None
    if reference is None:
        return None
    text = data(objects.get(("ConfigMap", reference.name)) or {}).get(reference.key, b"")
    problem = _flow_json_problem(text)
    if problem is None:
        return None
    where = f"ConfigMap {binding.metadata.namespace}/{reference.name}, key {reference.key!r}"
    field = "spec.flow.file.configMapKeyRef"
    return Missing(Reason.FLOW_FILE_INVALID, f"{where} (field {field}): {problem}", field)


def secret_reader(objects: Objects) -> Callable[[SecretKeyRef], bytes]:
    """How `kafka_options` gets at Secrets that `check` has found complete."""

    def read(reference: SecretKeyRef) -> bytes:
        return data(objects[("Secret", reference.name)] or {})[reference.key]

    return read


def data(item: Mapping[str, Any]) -> dict[str, bytes]:
    """The contents of a Secret or a ConfigMap."""
    is_secret = item.get("kind") == "Secret"
    plain = item.get("data") or {}
    result = {key: _decode(text) if is_secret else text.encode() for key, text in plain.items()}
    for key, text in (item.get("binaryData") or {}).items():
        result[key] = _decode(text)
    return result


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        return b""


def _flow_json_problem(text: bytes) -> str | None:
    try:
        flow = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    if not isinstance(flow, dict) or not isinstance(flow.get("data"), dict):
        return 'not an exported flow: expected a JSON object with "data"'
    return None


def references_in(path: str, value: Any) -> Iterator[Reference]:
    """Every reference in a part of a spec that is found at `path`."""
    if isinstance(value, SecretKeyRef):
        yield Reference("Secret", value.name, value.key, path)
    elif isinstance(value, ConfigMapKeyRef):
        yield Reference("ConfigMap", value.name, value.key, path)
    elif isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from references_in(f"{path}.{info.alias or name}", getattr(value, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from references_in(f"{path}[{index}]", item)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from references_in(f"{path}.{key}", item)
