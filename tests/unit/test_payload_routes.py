"""Results that go to topics of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api import FlowBinding, InvalidBindingError, parse_binding
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import (
    Failure,
    FlowRequest,
    FlowResult,
    Partition,
    ProcessingError,
    Record,
    Written,
)
from manifests import manifest

REQUEST = FlowRequest(request_id="in-0-7", input="hi", session_id="s-1")
THRESHOLDS = (
    {"when": "result.score >= 700", "topic": "approved"},
    {"when": "result.score >= 600", "topic": "review", "key": "{{ value.desk }}"},
)


def binding(**output: Any) -> FlowBinding:
    risk = {"metadata": {"name": "risk", "namespace": "loan"}}
    return parse_binding(manifest(risk, output={"topic": "out", **output}))


def written(answer: Any, routes: Any = THRESHOLDS, **output: Any) -> Written:
    content = b'{"desk": "north"}'
    record = Record(Partition("in", 0), 7, b"k", content, (), 0)
    payload = Payload(binding(routes=list(routes), **output))
    return payload.output(record, REQUEST, FlowResult(answer))


@pytest.mark.parametrize(
    ("score", "topic", "key"),
    [(850, "approved", b"k"), (700, "approved", b"k"), (699, "review", b"north"), (1, "out", b"k")],
)
def test_the_first_route_that_holds_takes_the_result(score: int, topic: str, key: bytes) -> None:
    result = written({"score": score})
    assert (result.topic, result.key) == (topic, key)
    assert json.loads(result.value)["result"] == {"score": score}


@given(
    bounds=st.lists(st.integers(-5, 5), max_size=5),
    score=st.integers(-6, 6),
)
def test_a_result_goes_to_the_first_of_any_routes(bounds: list[int], score: int) -> None:
    routes = [{"when": f"result.s >= {n}", "topic": f"t{i}"} for i, n in enumerate(bounds)]
    expected = next((f"t{i}" for i, n in enumerate(bounds) if score >= n), "out")
    assert written({"s": score}, routes).topic == expected


def test_routes_see_the_message_and_text_answers() -> None:
    routes = [
        {"when": "'urgent' in result and value.desk == 'north'", "topic": "urgent"},
        {"when": "headers.get('x') or offset == 8", "topic": "never"},
    ]
    assert written("this is urgent", routes).topic == "urgent"
    assert written("this is not", routes).topic == "out"


def test_a_route_inherits_the_outputs_key_and_value() -> None:
    result = written({"score": 700}, key="id-{{ value.desk }}", value="{{ result.score }}")
    assert result == Written(b"id-north", b"700", "approved")


def test_a_report_names_the_topic_it_goes_to() -> None:
    result = written({"score": 650}, envelope="Report")
    assert json.loads(result.value)["topic"] == "review"


def test_a_route_that_fails_is_that_messages_dead_letter() -> None:
    routes = [{"when": "result.score > 1", "topic": "a"}, {"when": "result.nope", "topic": "b"}]
    with pytest.raises(ProcessingError) as raised:
        written({"score": 1}, routes)
    error = raised.value
    assert (error.failure, error.reason) == (Failure.POISON, "TemplateFailed")
    assert str(error).startswith("spec.output.routes[1].when line 1: ")
    with pytest.raises(ProcessingError, match=r"^spec\.output\.routes\[0\]\.key line 1: "):
        written({}, [{"when": "true", "topic": "a", "key": "{{ value.nope }}"}])


def test_all_topics_are_known_once() -> None:
    routes = [*THRESHOLDS, {"when": "result", "topic": "out"}]
    assert binding(routes=routes).written_topics == ("out", "approved", "review", "in.risk.dlq")


def test_a_route_into_the_source_is_refused() -> None:
    with pytest.raises(InvalidBindingError, match=r"spec\.output\.routes: must not go to a sour"):
        binding(routes=[{"when": "true", "topic": "in"}])


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("output.routes[0].when: expression line 1: unknown name 'reslt'", "reslt.score"),
        ("output.routes[0].when: expression line 1: unexpected 'end of template'", "result.a >="),
        ("output.routes[0].when: expression line 2: No filter named 'scale'", "1 ==\n1 | scale"),
    ],
)
def test_wrong_routes_are_refused_with_their_place(field: str, text: str) -> None:
    with pytest.raises(InvalidBindingError) as raised:
        binding(routes=[{"when": text, "topic": "a"}])
    assert field in str(raised.value)
