"""Answers of a Langflow server, as recorded from langflow 1.13.0."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowbinding_worker.flows.extract import (
    Answers,
    Extract,
    extract,
    extract_served,
    extract_workflow,
)
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.ports import Failure, FlowResult, ProcessingError, Tokens

SAMPLES = Path(__file__).parents[1] / "data" / "langflow"
OBJECT = {"text": "data:hi", "score": 0.5, "tags": ["a", "b"]}


def recorded(name: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return sample


def extracted(name: str) -> FlowResult:
    sample = recorded(name)
    assert sample["status"] == 200
    return extract(sample["response"], (sample["request"]["body"] or {}).get("output_component"))


def refused(document: Any, component: str | None = None, how: Extract = extract) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        how(document, component)
    return raised.value


def test_the_run_id_is_kept() -> None:
    assert extracted("err-extra-field").run_id == "6380f96a-8cc2-4239-9b8e-df7e658fb6a0"
    assert extracted("run-text-echo-any").run_id is None
    assert extracted("run-data-terminal-outcomp").run_id is None


def test_data_in_a_chat_output_is_text_here_and_data_for_the_next_binding() -> None:
    answer = extracted("run-data-chat").value
    assert answer.startswith("```json\n{")
    assert as_data(answer) == OBJECT


def test_rows_in_a_chat_output_are_a_table() -> None:
    assert extracted("run-frame-chat").value.splitlines()[0] == "| text   |   n |"


def test_newlines_are_not_doubled() -> None:
    # Only `messages` and `artifacts` double them.
    assert "\n\n" not in extracted("run-data-chat").value


@pytest.mark.parametrize("name", ["run-echo-two", "run-echo-debug", "run-data-terminal-debug"])
def test_several_outputs_need_a_choice(name: str) -> None:
    error = refused(recorded(name)["response"])
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert "set spec.flow.outputComponent to one of" in str(error)


def test_the_candidates_are_named() -> None:
    assert str(refused(recorded("run-echo-two")["response"])).endswith(
        "one of ChatOutput-out (Chat Output), ChatOutput-two (Chat Output)"
    )


def test_the_chosen_component_answers() -> None:
    assert extract(recorded("run-echo-two")["response"], "ChatOutput-two").value == "hello"
    assert extract(recorded("run-data-terminal-debug")["response"], "MakeData-x").value == OBJECT


def test_no_output_component() -> None:
    error = refused(recorded("run-data-terminal")["response"])
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert str(error).startswith("no output component answered: give the flow a Chat Output")


def test_an_unknown_output_component() -> None:
    error = refused(recorded("run-echo-outcomp-unknown")["response"], "ChatOutput-zzz")
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert str(error).startswith("component ChatOutput-zzz did not answer")


def run(**item: Any) -> dict[str, Any]:
    return {"outputs": [{"inputs": {}, "outputs": [{"component_id": "C", **item}]}]}


@pytest.mark.parametrize(
    "message",
    [
        {"text": "provider said no", "error": True},
        {"text": "provider said no", "category": "error"},
    ],
)
def test_an_error_message_is_no_answer(message: dict[str, Any]) -> None:
    error = refused(run(results={"message": message}))
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowFailing")
    assert str(error) == "provider said no"


def test_an_error_message_about_a_rate_limit_is_a_throttle() -> None:
    error = refused(run(results={"message": {"text": "Error code: 429", "error": True}}))
    assert error.failure is Failure.THROTTLE


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ({"results": {"x": {"data": {"text": "b"}}}, "outputs": {"x": {"message": "c"}}}, "b"),
        ({"results": {}, "outputs": {"x": {"message": "c"}}}, "c"),
        ({"results": {"x": {"text": ""}}, "outputs": {"x": {"message": "c"}}}, ""),
        ({"results": {}, "outputs": {"x": {"message": {}}}}, {}),
        ({"results": {}, "outputs": {"x": {"message": []}}}, []),
        ({"outputs": {"x": {"message": None}, "y": {"message": "c"}}}, "c"),
    ],
)
def test_the_order_of_places(item: dict[str, Any], value: Any) -> None:
    assert extract(run(**item)).value == value


@pytest.mark.parametrize(
    "item",
    [{}, {"results": {}, "outputs": {}}, {"results": [], "outputs": []}, {"outputs": {"x": 1}}],
)
def test_an_output_without_any_answer(item: dict[str, Any]) -> None:
    error = refused(run(**item))
    assert error.failure is Failure.CONFIGURATION
    assert "gave neither text nor data" in str(error)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"outputs": None}, {"result": "x"}])
def test_what_is_no_answer_of_langflow(document: Any) -> None:
    error = refused(document)
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert "check spec.flow.url" in str(error)


@pytest.mark.parametrize("outputs", [[None], [{}], [{"outputs": None}], [{"outputs": [None]}], []])
def test_empty_runs(outputs: list[Any]) -> None:
    assert "no output component answered" in str(refused({"outputs": outputs}))


@pytest.mark.parametrize(
    "document",
    [
        {"outputs": []},
        {"outputs": [{"outputs": []}]},
        {"outputs": [{"outputs": [{"component_id": "other", "results": {}}]}]},
        {"outputs": [{"outputs": [{"component_id": "C", "results": {}}]}]},
    ],
    ids=["no-run", "no-output", "other-component", "no-text-nor-data"],
)
def test_a_flow_that_has_answered_is_not_misconfigured(document: dict[str, Any]) -> None:
    """A router may go past the output for one message; the others must not wait for it."""
    good = {"outputs": [{"outputs": [{"component_id": "C", "results": {"m": {"text": "hi"}}}]}]}
    answers = Answers("C")
    with pytest.raises(ProcessingError) as raised:
        answers.of(document)
    assert raised.value.failure is Failure.CONFIGURATION
    assert answers.of(good).value == "hi"
    with pytest.raises(ProcessingError) as raised:
        answers.of(document)
    assert (raised.value.failure, raised.value.reason) == (Failure.POISON, "NoAnswer")


def test_an_answer_that_is_an_error_is_a_run_that_happened() -> None:
    message = {"text": "no", "error": True}
    error = refused({"outputs": [{"outputs": [{"component_id": "C", "results": {"m": message}}]}]})
    assert (error.failure, error.ran) == (Failure.TRANSIENT, True)


def with_usage(usage: Any, token_usage: Any = None) -> dict[str, Any]:
    message = {"text": "hi", "properties": {"usage": usage}}
    return run(results={"message": message}, token_usage=token_usage)


@pytest.mark.parametrize(
    ("document", "tokens"),
    [
        (with_usage({"input_tokens": 12, "output_tokens": 3, "total_tokens": 15}), Tokens(12, 3)),
        (with_usage({"input_tokens": None, "output_tokens": 3}), Tokens(0, 3)),
        (with_usage({"input_tokens": "12", "output_tokens": -1}), Tokens(0, 0)),
        (with_usage(None, {"input_tokens": 1, "output_tokens": 2}), Tokens(1, 2)),
        (with_usage(None), None),
        (run(results={"message": {"text": "hi", "properties": None}}), None),
        (run(outputs={"x": {"message": "hi"}}), None),
    ],
)
def test_tokens_that_a_run_has_used(document: dict[str, Any], tokens: Tokens | None) -> None:
    assert extract(document).tokens == tokens


def workflow(reason: str = "none", status: str = "completed", **fields: Any) -> dict[str, Any]:
    output = {"reason": reason, "text": None, "source": None}
    return {"status": status, "job_id": "j-1", "output": output, "outputs": {}, **fields}


def outputs(**contents: Any) -> dict[str, Any]:
    return {
        name: {"type": "data", "display_name": f"{name} it", "content": content}
        for name, content in contents.items()
    }


@pytest.mark.parametrize("reason", ["none", "non_string"])
@pytest.mark.parametrize("content", [{"a": 1}, [{"a": 1}, {"a": 2}], {}, 5])
def test_a_workflow_may_answer_with_data(reason: str, content: Any) -> None:
    document = workflow(reason, outputs=outputs(A=content))
    assert extract_workflow(document) == FlowResult(content, run_id="j-1")
    document = workflow(reason, outputs=outputs(A=content, B={"b": 1}))
    assert extract_workflow(document, "A").value == content
    error = refused(document, how=extract_workflow)
    assert str(error).endswith("set spec.flow.outputComponent to one of A (A it), B (B it)")


def test_a_workflow_without_outputs() -> None:
    for component in (None, "A"):
        error = refused(workflow(), component, extract_workflow)
        assert error.failure is Failure.CONFIGURATION
        assert "give the flow a Chat Output" in str(error)


@pytest.mark.parametrize(
    ("errors", "failure", "message"),
    [
        ([{"error": "boom"}], Failure.TRANSIENT, "boom"),
        ([{"error": "Error code: 429 - quota"}], Failure.THROTTLE, "Error code: 429 - quota"),
        ([], Failure.TRANSIENT, "the run ended with the status failed"),
        (None, Failure.TRANSIENT, "the run ended with the status failed"),
        (["boom"], Failure.TRANSIENT, "the run ended with the status failed"),
    ],
)
def test_a_workflow_that_failed(errors: Any, failure: Failure, message: str) -> None:
    error = refused(workflow("failed", "failed", errors=errors), how=extract_workflow)
    assert (error.failure, str(error), error.ran) == (failure, message, True)


@pytest.mark.parametrize("status", ["timed_out", "cancelled", "queued", None])
def test_a_workflow_that_did_not_end(status: Any) -> None:
    error = refused(workflow(status=status, errors=[]), how=extract_workflow)
    assert (error.failure, error.reason) == (Failure.TRANSIENT, "FlowFailing")
    assert str(status) in str(error)


def test_a_workflow_that_waits_for_a_person_never_ends() -> None:
    error = refused(workflow(status="suspended"), how=extract_workflow)
    assert error.failure is Failure.CONFIGURATION
    assert "waits for a person" in str(error)


NAMES = st.sampled_from(
    [
        "output",
        "outputs",
        "status",
        "reason",
        "text",
        "errors",
        "error",
        "results",
        "message",
        "component_id",
        "content",
        "data",
        "properties",
        "usage",
        "token_usage",
        "success",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["completed", "single", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
DOCUMENTS = (
    JSON
    | JSON.map(lambda item: {"outputs": [{"outputs": [item]}]})
    | st.builds(run, results=JSON, outputs=JSON, token_usage=JSON)
    | st.fixed_dictionaries(
        {
            "status": st.just("completed") | JSON,
            "output": st.dictionaries(NAMES, JSON, max_size=3),
            "outputs": st.dictionaries(NAMES, JSON, max_size=3),
        }
    )
)


@pytest.mark.parametrize("how", [extract, extract_workflow])
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(document=DOCUMENTS, component=st.sampled_from([None, "content", "C"]))
def test_no_document_is_a_fault_of_ours(how: Extract, document: Any, component: Any) -> None:
    # Whatever else is raised is a fault.
    with contextlib.suppress(ProcessingError):
        json.dumps(how(document, component).value)


@pytest.mark.parametrize("how", [extract, extract_workflow, extract_served])
@pytest.mark.parametrize("document", [None, [], "x", {}, {"output": 1}, {"success": False}])
def test_what_comes_from_elsewhere(how: Extract, document: Any) -> None:
    error = refused(document, how=how)
    assert error.failure is Failure.CONFIGURATION
    assert "check spec.flow.url and spec.flow.api" in str(error)
