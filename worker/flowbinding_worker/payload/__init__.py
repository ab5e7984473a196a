"""From a Kafka record to a flow's request, and from a flow's answer to a Kafka record.

Pure: no I/O and no clock, so that a message gives the same request in every attempt.
"""

from __future__ import annotations

from typing import Any

from flowbinding_api import FlowBinding
from flowbinding_api.flow import Backend
from flowbinding_api.templates import environment
from flowbinding_worker.payload.decode import decode
from flowbinding_worker.payload.http import HttpTemplates
from flowbinding_worker.payload.render import (
    NativeTemplate,
    TextTemplate,
    compile_tweaks,
    render_tweaks,
)
from flowbinding_worker.payload.results import Results
from flowbinding_worker.ports import FlowRequest, FlowResult, Record, Written

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
        self._http = HttpTemplates(env, spec.flow) if spec.flow.backend is Backend.HTTP else None
        self._results = Results(env, binding, spec.output) if spec.output is not None else None

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
        # A blank session would make Langflow fall back to one session for the whole flow.
        session = session if session.strip() else identity
        text = self._input.render(variables)
        return FlowRequest(
            request_id=identity,
            input=text,
            session_id=session,
            tweaks=render_tweaks(self._tweaks, variables),
            http=self._http.render(variables, text, session) if self._http else None,
        )

    def output(self, record: Record, request: FlowRequest, result: FlowResult) -> Written:
        """Key, value and topic of a result, if the binding has an output; see `Results.written`.

        Raises:
            ProcessingError: As for `request`.
        """
        if self._results is None:
            raise TypeError("the binding has no output")
        return self._results.written(record, request, result, self._variables)

    def _variables(self, record: Record) -> dict[str, Any]:
        return decode(record, self._format, self._names)
