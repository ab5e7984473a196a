"""What the HTTP backend makes of an answer: results, failures, and the places in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.flow_http import Http
from flowbinding_api.presets import resolved
from flowbinding_worker.flows.classify import Answer
from flowbinding_worker.flows.http_answer import read, resolve
from flowbinding_worker.ports import Failure, ProcessingError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def answered(
    http: Mapping[str, Any], body: Any, status: int = 200, kind: str = "application/json"
) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return read(resolved(Http.model_validate(http), ""), Answer(status, kind, text), now=NOW).value


def failed(*args: Any, **fields: Any) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        answered(*args, **fields)
    return raised.value


def test_without_a_pointer_all_of_the_answer_counts() -> None:
    assert answered({}, {"a": [1]}) == {"a": [1]}
    assert answered({}, '"text"') == "text"
    assert answered({}, "text", kind="text/plain") == "text"
    assert answered({}, "", status=204, kind="") == ""


def test_json_that_does_not_say_so_is_read_where_a_pointer_asks_for_it() -> None:
    assert answered({"text": "/a"}, {"a": 1}, kind="text/plain") == 1
    assert answered({}, '{"a": 1}', kind="text/plain") == '{"a": 1}'


@pytest.mark.parametrize("http", [{"text": "/a"}, {"status": "/s", "success": ["ok"]}])
def test_an_answer_that_is_no_json_where_json_is_needed(http: dict[str, Any]) -> None:
    error = failed(http, "<html>login</html>", kind="text/html")
    assert (error.failure, error.reason) == (Failure.CONFIGURATION, "FlowMisconfigured")
    assert "answered 200 with text/html, 18 characters" in str(error)
    assert str(error).startswith(f"spec.flow.http.{next(iter(http))} needs JSON")


def test_broken_json_is_poison() -> None:
    error = failed({}, "{")
    assert (error.failure, error.reason) == (Failure.POISON, "AnswerInvalid")


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ({"b": 1, "c": 2}, "an object with b, c"),
        ({"a": None}, "an object with a"),
        ([1], "a list of 1"),
        ("1", "a value of type int"),
    ],
)
def test_no_answer_at_the_pointer_is_that_messages_problem(body: Any, shape: str) -> None:
    error = failed({"text": "/a"}, body)
    assert (error.failure, error.reason, error.ran) == (Failure.POISON, "NoAnswer", True)
    assert str(error) == f"spec.flow.http.text: nothing at /a of the answer, {shape}"


STATUS = {"status": "/state", "success": ["done", "true", "0"], "error": "/why", "text": "/out"}


@pytest.mark.parametrize("state", ["done", True, 0])
def test_a_status_that_means_success(state: Any) -> None:
    # With a status, a message beside it is no failure.
    assert answered(STATUS, {"state": state, "out": "x", "why": "no reason"}) == "x"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"state": "failed", "why": "node 3: boom"}, "the run failed: node 3: boom"),
        ({"state": "failed"}, "the run failed: /state is failed"),
        ({"state": False}, "the run failed: /state is false"),
        ({}, "the run failed: /state is nothing"),
    ],
)
def test_any_other_status_is_a_failed_run(body: dict[str, Any], said: str) -> None:
    error = failed(STATUS, body)
    assert (error.failure, error.reason, error.ran) == (Failure.TRANSIENT, "FlowFailing", True)
    assert str(error) == said


def test_a_failed_run_that_is_a_limit_in_disguise() -> None:
    body = {"state": "failed", "why": "Rate limit reached, please try again in 2s"}
    error = failed(STATUS, body)
    assert (error.failure, error.retry_after_seconds) == (Failure.THROTTLE, 2.0)


@pytest.mark.parametrize("nothing", [None, "", {}, [], False])
def test_an_error_that_is_none(nothing: Any) -> None:
    assert answered({"error": "/error", "text": "/a"}, {"error": nothing, "a": "x"}) == "x"


@pytest.mark.parametrize(
    ("status", "failure", "reason"),
    [
        (302, Failure.CONFIGURATION, "FlowMisconfigured"),
        (400, Failure.POISON, "RequestRefused"),
        (401, Failure.CONFIGURATION, "FlowUnauthorized"),
        (403, Failure.CONFIGURATION, "FlowUnauthorized"),
        (404, Failure.CONFIGURATION, "FlowNotFound"),
        (405, Failure.CONFIGURATION, "FlowMisconfigured"),
        (408, Failure.TRANSIENT, "FlowFailing"),
        (413, Failure.POISON, "RequestRefused"),
        (422, Failure.POISON, "RequestRefused"),
        (429, Failure.THROTTLE, "FlowThrottled"),
        (500, Failure.TRANSIENT, "FlowFailing"),
        (502, Failure.TRANSIENT, "FlowUnreachable"),
        (503, Failure.THROTTLE, "FlowThrottled"),
        (504, Failure.TRANSIENT, "FlowUnreachable"),
        (529, Failure.THROTTLE, "FlowThrottled"),
    ],
)
def test_statuses(status: int, failure: Failure, reason: str) -> None:
    error = failed({}, {"message": "said so"}, status=status)
    assert (error.failure, error.reason, error.status) == (failure, reason, status)
    assert str(error).startswith(f"the server answered {status}: said so")
    # A gateway that has waited long enough does not know what became of the run.
    assert error.outcome_unknown is (status == 504)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        ({"error": "not good"}, "application/json", ": not good"),
        ({"error": {"code": 5, "message": "deep"}}, "application/json", ": deep"),
        ({"detail": [{"msg": "one"}, {"msg": "two"}]}, "application/json", ": one; two"),
        ({"error": "BadRequest", "message": "why"}, "application/json", ": BadRequest: why"),
        ("plain words\nin lines", "text/plain", ": plain words in lines"),
        ("<html>page</html>", "text/html", ""),
        ("{", "application/json", ""),
        ({"x": 1}, "application/json", ': {"x": 1}'),
    ],
)
def test_what_the_server_says(body: Any, kind: str, said: str) -> None:
    assert str(failed({}, body, status=400, kind=kind)) == f"the server answered 400{said}"


def test_where_the_binding_says_the_message_is() -> None:
    body = {"message": "no", "fault": {"text": "here"}}
    error = failed({"error": "/fault/text"}, body, status=500)
    assert str(error) == "the server answered 500: here"


def test_a_redirect_says_where_to() -> None:
    answer = Answer(302, "text/html", "", location="https://sso.example/login?token=x")
    with pytest.raises(ProcessingError, match=r"redirects to https://sso\.example/login: set") as e:
        read(resolved(None, ""), answer, now=NOW)
    assert "token" not in str(e.value)


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", {"a/b": {"~": [10, 20]}, "": 0}),
        ("/", 0),
        ("/a~1b/~0/0", 10),
        ("/a~1b/~0/-1", 20),
    ],
)
def test_pointers(pointer: str, value: Any) -> None:
    assert resolve({"a/b": {"~": [10, 20]}, "": 0}, pointer) == value


@pytest.mark.parametrize(
    "pointer", ["/l/2", "/l/-3", "/l/01", "/l/-", "/l/a", "/l/0/x", "/x", "/l/-0"]
)
def test_pointers_to_nothing(pointer: str) -> None:
    assert failed({"text": pointer}, {"l": [1, 2]}).reason == "NoAnswer"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def places(document: Any, pointer: str = "") -> list[tuple[str, Any]]:
    found = [(pointer, document)]
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for name, inner in items:
        escaped = str(name).replace("~", "~0").replace("/", "~1")
        found += places(inner, f"{pointer}/{escaped}")
    return found


@given(json_values)
def test_every_place_of_a_document_has_a_pointer(document: Any) -> None:
    for pointer, value in places(document):
        assert resolve(document, pointer) is value


@given(json_values, st.text("/~01-a", max_size=12))
def test_no_pointer_breaks_on_any_document(document: Any, pointer: str) -> None:
    resolve(document, pointer)
