"""From the answer of a Langflow run to a `FlowResult`; pure.

A run's document, from the server and from lfx in process alike:

    {"outputs": [{"outputs": [{"component_id", "component_display_name",
                               "results": {name: message},
                               "outputs": {name: {"message": text or data, "type"}},
                               "artifacts", "messages", …}]}]}

The text stands in it up to five times. `messages` and `artifacts` double its newlines, so only
`results` and `outputs` are read, in this order: a result's `text`, its `data.text`, an output's
`message` as text, an output's `message` as data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flowbinding_api.reasons import Reason
from flowbinding_worker.flows.classify import misconfigured, run_failed
from flowbinding_worker.ports import Failure, FlowResult, ProcessingError


class Answers:
    """Takes the answers of one flow, and learns from them that the flow can answer at all.

    A flow that has answered before is not misconfigured: one whose router went past the output for
    this message gives no answer to this message, which must not stop the others.

    Args:
        output_component: Id of the component whose answer counts; None when there is only one.
    """

    def __init__(self, output_component: str | None) -> None:
        self._component = output_component
        self.proven = False
        """Whether a run has given an answer; to be reset when the flow is another."""

    def of(self, document: Any) -> FlowResult:
        """The answer of a run; see `extract`.

        Raises:
            ProcessingError: As `extract` does, but POISON with reason NoAnswer instead of
                CONFIGURATION once a run has given an answer.
        """
        try:
            result = extract(document, self._component)
        except ProcessingError as error:
            if self.proven and error.failure is Failure.CONFIGURATION:
                raise ProcessingError(
                    f"no answer to this message: {error}",
                    failure=Failure.POISON,
                    stage=error.stage,
                    reason="NoAnswer",
                    ran=True,
                ) from None
            raise
        self.proven = True
        return result


def extract(document: Any, output_component: str | None = None) -> FlowResult:
    """The answer of a run.

    Args:
        document: The run's answer, parsed.
        output_component: Id of the component whose answer counts; None when there is only one.

    Raises:
        ProcessingError: CONFIGURATION with reason FlowMisconfigured when no component answered, or
            several did and none was chosen; TRANSIENT (or THROTTLE) when the answer is an error.
    """
    item = _chosen(list(_answers(document)), output_component)
    for message in _results(item):
        _refuse_error(message)
    for value in _values(item):
        return FlowResult(value, run_id=_run_id(item))
    raise misconfigured(
        f"the flow's output {_name(item)} gave neither text nor data; connect a Chat Output, or"
        " choose another component in spec.flow.outputComponent"
    )


def _answers(document: Any) -> Iterator[Mapping[str, Any]]:
    runs = document.get("outputs") if isinstance(document, Mapping) else None
    if not isinstance(runs, list):
        raise misconfigured(
            "the answer is not that of a Langflow run (it has no list `outputs`);"
            " check spec.flow.url",
            Reason.FLOW_MISCONFIGURED,
        )
    for run in runs:
        for item in (run.get("outputs") if isinstance(run, Mapping) else None) or ():
            if isinstance(item, Mapping):
                yield item


def _chosen(items: list[Mapping[str, Any]], component: str | None) -> Mapping[str, Any]:
    if component is not None:
        items = [item for item in items if item.get("component_id") == component]
    if not items:
        what = f"component {component}" if component else "no output component"
        answered = "did not answer" if component else "answered"
        raise misconfigured(
            f"{what} {answered}: give the flow a Chat Output or Text Output, or name one of its"
            " components in spec.flow.outputComponent (names are matched exactly), and check"
            " spec.flow.outputType"
        )
    if len(items) > 1:
        names = ", ".join(_name(item) for item in items)
        raise misconfigured(
            f"the flow has several outputs; set spec.flow.outputComponent to one of {names}"
        )
    return items[0]


def _results(item: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    results = item.get("results")
    values = results.values() if isinstance(results, Mapping) else ()
    return [value for value in values if isinstance(value, Mapping)]


def _values(item: Mapping[str, Any]) -> Iterator[Any]:
    """Every place that holds the answer, best first."""
    results = _results(item)
    yield from (message["text"] for message in results if isinstance(message.get("text"), str))
    for message in results:
        data = message.get("data")
        if isinstance(data, Mapping) and isinstance(data.get("text"), str):
            yield data["text"]
    outputs = item.get("outputs")
    entries = outputs.values() if isinstance(outputs, Mapping) else ()
    messages = [entry.get("message") for entry in entries if isinstance(entry, Mapping)]
    yield from (message for message in messages if isinstance(message, str))
    yield from (message for message in messages if isinstance(message, Mapping | list))


def _refuse_error(message: Mapping[str, Any]) -> None:
    """A component may pass its failure on as a message that looks like an answer."""
    if message.get("error") is True or message.get("category") == "error":
        raise run_failed(str(message.get("text") or "the flow answered with an error message"))


def _run_id(item: Mapping[str, Any]) -> str | None:
    for message in _results(item):
        data = message.get("data")
        for holder in (message, data if isinstance(data, Mapping) else {}):
            run_id = holder.get("run_id")
            if isinstance(run_id, str) and run_id:
                return run_id
    return None


def _name(item: Mapping[str, Any]) -> str:
    return f"{item.get('component_id')} ({item.get('component_display_name')})"
