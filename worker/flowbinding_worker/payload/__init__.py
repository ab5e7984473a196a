"""From a Kafka record to a flow's request, and from a flow's answer to a Kafka record.

Pure: no I/O and no clock, so that a message gives the same request in every attempt.
"""

from __future__ import annotations

from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_api.spec import Envelope
from flowbinding_api.templates import environment
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.payload.decode import decode
from flowbinding_worker.payload.output import (
    OutputKey,
    cloud_event,
    data_or_text,
    default_value,
    encode,
    report,
)
from flowbinding_worker.payload.render import (
    NativeTemplate,
    TextTemplate,
    compile_tweaks,
    render_tweaks,
)
from flowbinding_worker.ports import FlowRequest, FlowResult, Record

__all__ = ["Payload", "request_id"]


def request_id(record: Record) -> str:
    """`<topic>-<partition>-<offset>`: the same for every attempt and every worker."""
    return f"{record.partition.topic}-{record.partition.partition}-{record.offset}"


class Payload:
    """A binding's templates, compiled once.

    Args:
        binding: A binding whose templates parse, as `parse_binding` has checked.
    """

    def __init__(self, binding: FlowBinding) -> None:
        spec = binding.spec
        env = environment()
        self._binding = binding
        self._names = {"name": binding.metadata.name, "namespace": binding.metadata.namespace}
        self._format = spec.source.format
        self._filter = (
            NativeTemplate.of_expression(env, "spec.source.filter", spec.source.filter)
            if spec.source.filter is not None
            else None
        )
        self._input = TextTemplate(env, "spec.flow.input", spec.flow.input)
        self._session = TextTemplate(env, "spec.flow.sessionId", spec.flow.session_id)
        self._tweaks = compile_tweaks(env, "spec.flow.tweaks", spec.flow.tweaks)
        self._key = OutputKey(env, spec.output.key if spec.output else "{{ key }}")
        value = spec.output.value if spec.output else None
        self._value = TextTemplate(env, "spec.output.value", value) if value is not None else None
        self._envelope = spec.output.envelope if spec.output else Envelope.NONE
        self._topic = spec.output.topic if spec.output else ""

    def request(self, record: Record) -> FlowRequest | None:
        """Render the run of one message.

        Returns:
            The run; None when `source.filter` is false.

        Raises:
            ProcessingError: POISON; stage DECODE with reason DecodeFailed, or stage TEMPLATE with
                reason TemplateFailed, the field and the line.
        """
        variables = self._variables(record)
        if self._filter is not None and not self._filter.truth(variables):
            return None
        identity = request_id(record)
        session = self._session.render(variables)
        return FlowRequest(
            request_id=identity,
            input=self._input.render(variables),
            # A blank session would make Langflow fall back to one session for the whole flow.
            session_id=session if session.strip() else identity,
            tweaks=render_tweaks(self._tweaks, variables),
        )

    def output(
        self, record: Record, request: FlowRequest, result: FlowResult
    ) -> tuple[bytes | None, bytes]:
        """Key and value of the result's record.

        `result` in templates, and in the default value, is the answer's data where the answer is
        data or text that holds a JSON object or array (see `as_data`), else the text itself.

        Raises:
            ProcessingError: As for `request`.
        """
        answer = as_data(result.value)
        if self._value is None and self._key.passes_through:
            return record.key, self._wrapped(record, request, answer)
        variables = {**self._variables(record), "result": answer}
        key = self._key.render(record, variables)
        if self._value is None:
            return key, self._wrapped(record, request, answer)
        text = self._value.render(variables)
        if self._envelope is Envelope.NONE:
            return key, encode("spec.output.value", text)
        return key, self._wrapped(record, request, data_or_text(text))

    def _wrapped(self, record: Record, request: FlowRequest, content: Any) -> bytes:
        if self._envelope is Envelope.REPORT:
            return report(self._binding, self._topic, record, content)
        if self._envelope is Envelope.CLOUD_EVENTS:
            return cloud_event(self._binding, record, content)
        return default_value(self._binding, record, request, content)

    def _variables(self, record: Record) -> dict[str, Any]:
        return decode(record, self._format, self._names)
