"""From the answer of a run to a `FlowResult`: Langflow's three APIs, and lfx in process; pure.

Run: a run's document, from the server and from lfx in process alike:

    {"outputs": [{"outputs": [{"component_id", "component_display_name",
                               "results": {name: message},
                               "outputs": {name: {"message": text or data, "type"}},
                               "artifacts", "messages", …}]}]}

The text stands in it up to five times. `messages` and `artifacts` double its newlines, so only
`results` and `outputs` are read, in this order: a result's `text`, its `data.text`, an output's
`message` as text, an output's `message` as data.

Workflows: one answer or the reason why there is none, and all outputs by component:

    {"status", "job_id", "output": {"reason", "text", "source"}, "errors": [{"error"}],
     "outputs": {id: {"type", "display_name", "content"}}}

Serve: {"result", "success", "type", "component"}, of the flow's first Chat Output.

Objects are looked for as `dict`, which is what a document has: to ask for a `Mapping` takes fifteen
times as long, and it is asked twenty times a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from flowbinding_api.reasons import Reason
from flowbinding_worker.flows.classify import misconfigured, run_failed
from flowbinding_worker.ports import Failure, FlowResult, ProcessingError, Tokens

Extract = Callable[[Any, str | None], FlowResult]
"""From an answer's document, and the component that counts, to the result."""


class Answers:
    """Takes the answers of one flow, and learns from them that the flow can answer at all.

    A flow that has answered before is not misconfigured: one whose router went past the output for
    this message gives no answer to this message, which must not stop the others.

    Args:
        output_component: Id of the component whose answer counts; None when there is only one.
    """

    def __init__(self, output_component: str | None, how: Extract | None = None) -> None:
        self._component = output_component
        self._extract = how or extract
        self.proven = False
        """Whether a run has given an answer; to be reset when the flow is another."""

    def of(self, document: Any) -> FlowResult:
        """The answer of a run; see `extract`.

        Raises:
            ProcessingError: As `extract` does, but POISON with reason NoAnswer instead of
                CONFIGURATION once a run has given an answer.
        """
        try:
            result = self._extract(document, self._component)
        except ProcessingError as error:
            raise self.judged(error) from None
        self.proven = True
        return result

    def judged(self, error: ProcessingError) -> ProcessingError:
        """What it means that a run has ended without an answer, after what was learnt."""
        if not self.proven or error.failure is not Failure.CONFIGURATION:
            return error
        return ProcessingError(
            f"no answer to this message: {error}",
            failure=Failure.POISON,
            stage=error.stage,
            reason="NoAnswer",
            ran=True,
        )


def extract(document: Any, output_component: str | None = None) -> FlowResult:
    """The answer of a run, from the run API or from lfx.

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
        return FlowResult(value, run_id=_run_id(item), tokens=_tokens(item))
    raise misconfigured(
        f"the flow's output {_name(item)} gave neither text nor data; connect a Chat Output, or"
        " choose another component in spec.flow.outputComponent"
    )


def extract_workflow(document: Any, output_component: str | None = None) -> FlowResult:
    """The answer of a run, from the workflows API.

    Args:
        document: The run's answer, parsed.
        output_component: Id of the component whose answer counts; None when there is only one.

    Raises:
        ProcessingError: As `extract` does; a run that failed comes with status 200 too.
    """
    output = document.get("output") if isinstance(document, dict) else None
    outputs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(output, dict) or not isinstance(outputs, dict):
        raise _foreign("that of Langflow's workflows API (it has no object `output`)")
    _refuse_unfinished(document)
    run_id = document.get("job_id")
    run_id = run_id if isinstance(run_id, str) else None
    if output.get("reason") == "single" and isinstance(output.get("text"), str):
        return FlowResult(output["text"], run_id=run_id)
    return FlowResult(_content(outputs, output_component), run_id=run_id)


def extract_served(document: Any, _: str | None = None) -> FlowResult:
    """The answer of a run, from `lfx serve`.

    Raises:
        ProcessingError: CONFIGURATION when it is no such answer.
    """
    if not isinstance(document, dict) or document.get("success") is not True:
        raise _foreign("that of lfx serve (it has no `success`)")
    return FlowResult(document.get("result"))


def _foreign(expected: str) -> ProcessingError:
    return misconfigured(
        f"the answer is not {expected}; check spec.flow.url and spec.flow.api",
        Reason.FLOW_MISCONFIGURED,
    )


def _refuse_unfinished(document: Mapping[str, Any]) -> None:
    status = document.get("status")
    if status == "completed":
        return
    if status == "suspended":
        raise misconfigured(
            "the flow waits for a person, who is not here; take out its component that asks one"
        )
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    text = first.get("error") if isinstance(first, dict) else None
    raise run_failed(str(text or f"the run ended with the status {status}"))


def _content(outputs: Mapping[str, Any], component: str | None) -> Any:
    """What a component gave that is no text; or why there is no answer."""
    named = {key: item for key, item in outputs.items() if isinstance(item, dict)}
    if component is not None:
        named = {key: item for key, item in named.items() if key == component}
    items = [
        {"component_id": k, "component_display_name": v.get("display_name")}
        for k, v in named.items()
    ]
    chosen = _chosen(items, component)
    content = named[chosen["component_id"]].get("content")
    if content is None:
        raise misconfigured(
            f"the flow's output {_name(chosen)} gave nothing that spec.flow.api Workflows hands"
            " out; connect a Chat Output, or use Run"
        )
    return content


def _answers(document: Any) -> Iterator[Mapping[str, Any]]:
    runs = document.get("outputs") if isinstance(document, dict) else None
    if not isinstance(runs, list):
        raise _foreign("that of a Langflow run (it has no list `outputs`)")
    for run in runs:
        for item in (run.get("outputs") if isinstance(run, dict) else None) or ():
            if isinstance(item, dict):
                yield item


def _chosen(items: Sequence[Mapping[str, Any]], component: str | None) -> Mapping[str, Any]:
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
    values = results.values() if isinstance(results, dict) else ()
    return [value for value in values if isinstance(value, dict)]


def _values(item: Mapping[str, Any]) -> Iterator[Any]:
    """Every place that holds the answer, best first."""
    results = _results(item)
    yield from (message["text"] for message in results if isinstance(message.get("text"), str))
    for message in results:
        data = message.get("data")
        if isinstance(data, dict) and isinstance(data.get("text"), str):
            yield data["text"]
    outputs = item.get("outputs")
    entries = outputs.values() if isinstance(outputs, dict) else ()
    messages = [entry.get("message") for entry in entries if isinstance(entry, dict)]
    yield from (message for message in messages if isinstance(message, str))
    yield from (message for message in messages if isinstance(message, dict | list))


def _refuse_error(message: Mapping[str, Any]) -> None:
    """A component may pass its failure on as a message that looks like an answer."""
    if message.get("error") is True or message.get("category") == "error":
        raise run_failed(str(message.get("text") or "the flow answered with an error message"))


def _run_id(item: Mapping[str, Any]) -> str | None:
    for message in _results(item):
        data = message.get("data")
        for holder in (message, data if isinstance(data, dict) else {}):
            run_id = holder.get("run_id")
            if isinstance(run_id, str) and run_id:
                return run_id
    return None


def _tokens(item: Mapping[str, Any]) -> Tokens | None:
    """What the flow has used: a Chat Output's message carries the sum of all before it."""
    holders = [message.get("properties") for message in _results(item)]
    found = [holder.get("usage") for holder in holders if isinstance(holder, dict)]
    for usage in (*found, item.get("token_usage")):
        if isinstance(usage, dict):
            return Tokens(_count(usage.get("input_tokens")), _count(usage.get("output_tokens")))
    return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _name(item: Mapping[str, Any]) -> str:
    return f"{item.get('component_id')} ({item.get('component_display_name')})"
