"""A result's key and value, and what the value is wrapped in."""

from __future__ import annotations

from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_api.binding import API_VERSION
from flowbinding_api.flow import Flow
from flowbinding_api.templates import Environment
from flowbinding_worker import jsons
from flowbinding_worker.payload.decode import iso_timestamp, key_text
from flowbinding_worker.payload.render import NativeTemplate, TextTemplate, single_expression
from flowbinding_worker.ports import Failure, FlowRequest, ProcessingError, Record, Stage

EVENT_TYPE = "io.flowbinding.result"
"""Type of the CloudEvents that carry results."""


class OutputKey:
    """Template of a result's key.

    `{{ key }}` passes the record's own bytes through, null included, whether or not they are text.
    Any other single expression that gives None makes a null key.

    Args:
        env: The sandbox.
        field: Path of the field, for messages.
        text: A template that parses.
    """

    def __init__(self, env: Environment, field: str, text: str) -> None:
        self._field = field
        expression = single_expression(env, text)
        native = NativeTemplate(env, field, expression) if expression is not None else None
        self.passes_through = native is not None and native.name == "key"
        self._native = native
        self._text = TextTemplate(env, field, text.strip() if native else text)

    def render(self, record: Record, variables: dict[str, Any]) -> bytes | None:
        """The key's bytes for one message."""
        if self.passes_through:
            return record.key
        if self._native is not None and self._native.render(variables) is None:
            return None
        return encode(self._field, self._text.render(variables))


def default_value(binding: FlowBinding, record: Record, request: FlowRequest, answer: Any) -> bytes:
    """The value without a template or an envelope: the answer, and where it comes from.

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


def report(binding: FlowBinding, topic: str, record: Record, content: Any) -> bytes:
    """The envelope Report: which binding made the content, and for which topic."""
    return _json(
        {
            "timestamp": iso_timestamp(record.timestamp_ms),
            "source": binding.key,
            "topic": topic,
            "report": content,
        }
    )


def cloud_event(binding: FlowBinding, record: Record, content: Any) -> bytes:
    """A structured CloudEvent (specification 1.0.2, JSON format 1.0.2).

    `source` and `id` together name the message that it was made from, so that a repeated run gives
    the same event; `subject` is that message's place.
    """
    topic, partition = record.partition
    namespace, name = binding.metadata.namespace, binding.metadata.name
    event = {
        "specversion": "1.0",
        "id": f"{topic}-{partition}-{record.offset}",
        "source": f"/apis/{API_VERSION}/namespaces/{namespace}/flowbindings/{name}",
        "type": EVENT_TYPE,
        "subject": f"{topic}/{partition}/{record.offset}",
        "time": iso_timestamp(record.timestamp_ms),
        "datacontenttype": "text/plain" if isinstance(content, str) else "application/json",
        "data": content,
    }
    key = key_text(record)
    if key:
        # The extension Partitioning; its value must not be empty.
        event["partitionkey"] = key
    return _json(event)


def data_or_text(text: str) -> Any:
    """What a rendered value holds: JSON where it parses, else the text."""
    try:
        return jsons.strict(text)
    except ValueError:
        return text


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
        return jsons.dump(value)
    except ValueError as error:
        raise ProcessingError(
            f"the result cannot be written as JSON: {error}",
            failure=Failure.POISON,
            stage=Stage.OUTPUT,
            reason="ResultNotJson",
        ) from None
