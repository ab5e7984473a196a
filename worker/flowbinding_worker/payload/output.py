"""A result's key and value."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_api.flow import Flow
from flowbinding_api.templates import Environment
from flowbinding_worker.payload.decode import iso_timestamp, key_text
from flowbinding_worker.payload.render import NativeTemplate, TextTemplate, single_expression
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError, Record, Stage

_FIELD = "spec.output.key"


class OutputKey:
    """Template of a result's key.

    `{{ key }}` passes the record's own bytes through, null included, whether or not they are text.
    Any other single expression that gives None makes a null key.
    """

    def __init__(self, env: Environment, text: str) -> None:
        expression = single_expression(env, text)
        native = NativeTemplate(env, _FIELD, expression) if expression is not None else None
        self.passes_through = native is not None and native.name == "key"
        self._native = native
        self._text = TextTemplate(env, _FIELD, text.strip() if native else text)

    def render(self, record: Record, variables: dict[str, Any]) -> bytes | None:
        """The key's bytes for one message."""
        if self.passes_through:
            return record.key
        if self._native is not None and self._native.render(variables) is None:
            return None
        return encode(_FIELD, self._text.render(variables))


def envelope(binding: FlowBinding, record: Record, request: FlowRequest, answer: Any) -> bytes:
    """The default value: the answer, and where it comes from.

    `timestamp` is the message's own, as in templates, so that a repeated run gives the same record.
    """
    return _json(
        {
            "result": answer,
            "source": {
                "topic": record.partition.topic,
                "partition": record.partition.partition,
                "offset": record.offset,
                "key": key_text(record),
            },
            "binding": binding.key,
            "flow": flow_name(binding.spec.flow),
            "sessionId": request.session_id,
            "timestamp": iso_timestamp(record.timestamp_ms),
        }
    )


def flow_name(flow: Flow) -> str | None:
    """The flow's id; without one the place of its file; None for Echo."""
    if flow.id is not None or flow.file is None:
        return flow.id
    reference = flow.file.config_map_key_ref
    return flow.file.path if reference is None else f"{reference.name}/{reference.key}"


def encode(field: str, text: str) -> bytes:
    """`text` in UTF-8.

    Raises:
        ProcessingError: POISON, when it holds half a surrogate pair, which JSON can escape.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ProcessingError(
            f"{field}: the text is not valid Unicode (character {error.start})",
            failure=Failure.POISON,
            stage=Stage.TEMPLATE,
            reason="TemplateFailed",
        ) from None


def _json(value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair has no UTF-8, but JSON can escape it without loss.
        return json.dumps(_finite(value), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    """`value` with NaN and the infinities, which JSON lacks, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
