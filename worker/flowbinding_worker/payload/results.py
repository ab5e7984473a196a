"""From a flow's answer to the record that is written: its topic, its key and its value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowbinding_api import FlowBinding
from flowbinding_api.spec import Envelope, Output
from flowbinding_api.templates import Environment
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.payload.output import (
    OutputKey,
    cloud_event,
    data_or_text,
    default_value,
    encode,
    report,
)
from flowbinding_worker.payload.render import NativeTemplate, TextTemplate, Variables
from flowbinding_worker.ports import FlowRequest, FlowResult, Record, Written


@dataclass(frozen=True, slots=True)
class Destination:
    """Where results may go.

    Attributes:
        when: Whether one does; None: all that no other takes.
    """

    topic: str
    key: OutputKey
    when: NativeTemplate | None = None


class Results:
    """A binding's output, compiled once.

    Args:
        env: The sandbox.
        binding: Whose.
        output: Its `spec.output`.
    """

    def __init__(self, env: Environment, binding: FlowBinding, output: Output) -> None:
        self._binding = binding
        self._envelope = output.envelope
        self._value = (
            TextTemplate(env, "spec.output.value", output.value)
            if output.value is not None
            else None
        )
        self._routes = [*_routes(env, output)]
        self._otherwise = Destination(output.topic, OutputKey(env, "spec.output.key", output.key))
        self._constant = not output.routes and self._value is None

    def written(
        self,
        record: Record,
        request: FlowRequest,
        result: FlowResult,
        variables: Callable[[Record], Variables],
    ) -> Written:
        """The record of one result.

        `result` in templates, and in the default value, is the answer's data where the answer is
        data or text that holds a JSON object or array (see `as_data`), else the text itself.

        Args:
            record: The message.
            request: Its run.
            result: The answer.
            variables: What templates see of a message; asked only if there are templates.

        Raises:
            ProcessingError: POISON; stage TEMPLATE with reason TemplateFailed, the field and line.
        """
        answer = as_data(result.value)
        to = self._otherwise
        if self._constant and to.key.passes_through:
            return Written(record.key, self._wrapped(record, request, answer, to), to.topic)
        names = {**variables(record), "result": answer}
        to = next((route for route in self._routes if _taken(route, names)), to)
        key = to.key.render(record, names)
        if self._value is None:
            return Written(key, self._wrapped(record, request, answer, to), to.topic)
        text = self._value.render(names)
        if self._envelope is Envelope.NONE:
            return Written(key, encode("spec.output.value", text), to.topic)
        content = data_or_text(text)
        return Written(key, self._wrapped(record, request, content, to), to.topic)

    def _wrapped(
        self, record: Record, request: FlowRequest, content: object, to: Destination
    ) -> bytes:
        if self._envelope is Envelope.REPORT:
            return report(self._binding, to.topic, record, content)
        if self._envelope is Envelope.CLOUD_EVENTS:
            return cloud_event(self._binding, record, content)
        return default_value(self._binding, record, request, content)


def _routes(env: Environment, output: Output) -> list[Destination]:
    destinations = []
    for index, route in enumerate(output.routes):
        field = f"spec.output.routes[{index}]"
        key = (
            OutputKey(env, "spec.output.key", output.key)
            if route.key is None
            else OutputKey(env, f"{field}.key", route.key)
        )
        when = NativeTemplate.of_expression(env, f"{field}.when", route.when)
        destinations.append(Destination(route.topic, key, when))
    return destinations


def _taken(route: Destination, names: Variables) -> bool:
    return route.when is None or route.when.truth(names)
