"""Answers of a Langflow server, as recorded from langflow 1.13.0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowbinding_worker.flows.extract import Answers, extract
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.ports import Failure, FlowResult, ProcessingError

SAMPLES = Path(__file__).parents[1] / "data" / "langflow"
OBJECT = {"text": "data:hi", "score": 0.5, "tags": ["a", "b"]}
ROWS = [{"text": "hi", "n": 1}, {"text": "row2", "n": 2}]


def recorded(name: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return sample


def extracted(name: str) -> FlowResult:
    sample = recorded(name)
    assert sample["status"] == 200
    return extract(sample["response"], (sample["request"]["body"] or {}).get("output_component"))


def refused(document: Any, component: str | None = None) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        extract(document, component)
    return raised.value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("err-extra-field", "hi"),
        ("run-echo-any", "hello"),
        ("run-echo-by-endpoint", "hello"),
        ("run-echo-by-id", "hello"),
        ("run-echo-defaults", "hello"),
        ("run-echo-inputtypetext", ""),
        ("run-echo-emptybody", ""),
        ("run-echo-nobody", ""),
        ("run-echo-outcomp", "hello"),
        ("run-echo-outtext", "hello"),
        ("run-echo-streamfalse", "hello"),
        ("run-echo-tweak-input-only", "zz"),
        ("run-embedded-body", "emb"),
        ("run-globalvar-header", "Hello World, you said: hi"),
        ("run-hook", "```json\n{}\n```"),
        ("run-hook-tweak", '```json\n{\n  "a": 2\n}\n```'),
        ("run-prompt", "Hello World, you said: hi"),
        ("run-prompt-tweak-badtype", "Hello World, you said: hi"),
        ("run-prompt-tweak-display", "Hello Bob, you said: hi"),
        ("run-prompt-tweak-flat", "Hello Flat, you said: hi"),
        ("run-prompt-tweak-id", "Hello Alice, you said: hi"),
        ("run-prompt-tweak-notdict", "Hello World, you said: "),
        ("run-prompt-tweak-unknown-field", "Hello World, you said: hi"),
        ("run-prompt-tweak-unknown-node", "Hello World, you said: hi"),
        ("run-text-echo-any", "hello"),
        ("run-text-echo-chat", ""),
        ("run-text-echo-text", "hello"),
        ("run-data-terminal-outcomp", OBJECT),
        ("run-frame-terminal-outcomp", ROWS),
    ],
)
def test_recorded_answers(name: str, value: Any) -> None:
    assert extracted(name).value == value


@pytest.mark.parametrize("name", ["err-invalid-type-input", "err-invalid-type-inputtype"])
def test_the_empty_text_is_an_answer(name: str) -> None:
    assert extracted(name).value == ""


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
