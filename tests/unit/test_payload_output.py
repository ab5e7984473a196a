"""From an answer to a result's record."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowbinding_api import FlowBinding, parse_binding
from flowbinding_worker.payload import Payload
from flowbinding_worker.payload.answer import as_data
from flowbinding_worker.ports import (
    Failure,
    FlowRequest,
    FlowResult,
    Partition,
    ProcessingError,
    Record,
    Stage,
)
from manifests import manifest

ECHO = {"backend": "Echo"}
REQUEST = FlowRequest(request_id="in-0-7", input="hi", session_id="s-1")


def binding(flow: dict[str, Any] = ECHO, **output: Any) -> FlowBinding:
    risk = {"metadata": {"name": "risk", "namespace": "loan"}}
    return parse_binding(manifest(risk, flow=flow, output={"topic": "out", **output}))


def record(value: bytes | None = b"{}", key: bytes | None = b"k") -> Record:
    return Record(Partition("in", 0), 7, key, value, (), 1_795_257_558_250)


def output(
    answer: Any, message: Record | None = None, flow: dict[str, Any] = ECHO, **fields: Any
) -> tuple[bytes | None, bytes]:
    payload = Payload(binding(flow, **fields))
    written = payload.output(message or record(), REQUEST, FlowResult(answer))
    assert written.topic == "out"
    return written.key, written.value


def nested(depth: int) -> list[Any]:
    tree: list[Any] = []
    for _ in range(depth):
        tree = [tree]
    return tree


def result(answer: Any) -> Any:
    return json.loads(output(answer)[1])["result"]


def test_the_default_value() -> None:
    key, value = output("hello")
    assert key == b"k"
    assert json.loads(value) == {
        "result": "hello",
        "source": {"topic": "in", "partition": 0, "offset": 7, "key": "k"},
        "binding": "loan/risk",
        "flow": None,
        "sessionId": "s-1",
        "timestamp": "2026-11-21T10:39:18.250Z",
    }


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        ({"backend": "Langflow", "url": "http://langflow:7860", "id": "risk-agent"}, "risk-agent"),
        (
            {
                "backend": "Local",
                "file": {"configMapKeyRef": {"name": "loan-flows", "key": "risk.json"}},
            },
            "loan-flows/risk.json",
        ),
        ({"backend": "Local", "file": {"path": "/flows/risk.json"}}, "/flows/risk.json"),
    ],
)
def test_the_default_value_names_the_flow(flow: dict[str, Any], name: str) -> None:
    assert json.loads(output("x", flow=flow)[1])["flow"] == name


@pytest.mark.parametrize("key", [None, b"", b"k", b"\xff\x00", "ключ".encode()])
def test_the_default_key_is_the_records_own(key: bytes | None) -> None:
    assert output("x", record(key=key))[0] == key
    assert output("x", record(key=key), key="{{key}}", value="{{ result }}")[0] == key


@pytest.mark.parametrize(
    ("template", "key"),
    [
        ("{{ value.id }}", b"7"),
        ("{{ value.none }}", None),
        ("{{ result.score }}", b"690"),
        ("id-{{ value.id }}", b"id-7"),
        ("{{ value.empty }}", b""),
        ("fixed", b"fixed"),
    ],
)
def test_keys(template: str, key: bytes | None) -> None:
    message = record(b'{"id": 7, "none": null, "empty": ""}')
    assert output('{"score": 690}', message, key=template)[0] == key


def test_a_value_template_sees_the_message_and_the_result() -> None:
    template = '{"id": {{ value.id | tojson }}, "score": {{ result.score }}, "k": "{{ key }}"}'
    value = output('{"score": 690}', record(b'{"id": "a"}'), value=template)[1]
    assert json.loads(value) == {"id": "a", "score": 690, "k": "k"}


@pytest.mark.parametrize("template", ["{{ result }}", "{{ result | tojson }}"])
def test_a_value_template_writes_data_as_json(template: str) -> None:
    assert output({"a": [1, "é"]}, value=template)[1] == '{"a":[1,"é"]}'.encode()


@pytest.mark.parametrize("field", ["key", "value"])
def test_a_failing_template_is_poison(field: str) -> None:
    with pytest.raises(ProcessingError) as raised:
        Payload(binding(ECHO, **{field: "\n{{ result.score }}"})).output(
            record(), REQUEST, FlowResult("text")
        )
    error = raised.value
    assert (error.failure, error.stage, error.reason) == (
        Failure.POISON,
        Stage.TEMPLATE,
        "TemplateFailed",
    )
    assert f"spec.output.{field} line " in str(error)


def test_results_of_a_tombstone() -> None:
    key, value = output("x", record(None, None))
    assert key is None
    assert json.loads(value)["source"]["key"] is None


def test_what_json_lacks_becomes_null() -> None:
    assert result({"a": float("nan"), "b": [float("inf")], "c": 1.5}) == {
        "a": None,
        "b": [None],
        "c": 1.5,
    }


@pytest.mark.parametrize(
    ("answer", "why"), [(nested(5000), "nested too deeply"), ({"n": 10**5000}, "4300 digits")]
)
def test_what_cannot_be_written_is_poison(answer: Any, why: str) -> None:
    with pytest.raises(ProcessingError, match=f"cannot be written as JSON: .*{why}") as raised:
        output(answer)
    assert (raised.value.failure, raised.value.reason) == (Failure.POISON, "ResultNotJson")


def test_half_a_surrogate_pair_is_escaped_in_json_and_refused_in_text() -> None:
    assert result("\ud800") == "\ud800"
    with pytest.raises(ProcessingError, match="not valid Unicode"):
        output("\ud800", value="{{ result }}")


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        ('{"score": 1}', {"score": 1}),
        (" [1, 2]\n", [1, 2]),
        ("{}", {}),
        ('```json\n{\n  "score": 0.5\n}\n```', {"score": 0.5}),
        ('\n```json\r\n{"a": 1}\r\n```\n', {"a": 1}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ([1], [1]),
    ],
)
def test_answers_that_are_data(answer: Any, data: Any) -> None:
    assert as_data(answer) == data


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "42",
        "true",
        "null",
        '"quoted"',
        "{broken",
        '{"a": NaN}',
        "[see below]",
        'Here it is:\n```json\n{"a": 1}\n```',
        '```json\n{"a": 1}\n```\nDone.',
        '```json\n{"a": 1}\n```\n```json\n{"b": 1}\n```',
        '```python\n{"a": 1}\n```',
        "```json\n42\n```",
        "| a |\n|---|\n| 1 |",
        "[" * 100_000,
    ],
)
def test_answers_that_stay_text(answer: str) -> None:
    assert as_data(answer) == answer


def test_a_report_wraps_the_answer() -> None:
    key, value = output('{"score": 690}', envelope="Report")
    assert key == b"k"
    assert json.loads(value) == {
        "timestamp": "2026-11-21T10:39:18.250Z",
        "source": "loan/risk",
        "topic": "out",
        "report": {"score": 690},
    }


def test_a_cloud_event_names_the_message_it_was_made_from() -> None:
    _, value = output('{"score": 690}', envelope="CloudEvents")
    assert json.loads(value) == {
        "specversion": "1.0",
        "id": "in-0-7",
        "source": "/apis/flowbinding.io/v1alpha1/namespaces/loan/flowbindings/risk",
        "type": "io.flowbinding.result",
        "subject": "in/0/7",
        "time": "2026-11-21T10:39:18.250Z",
        "datacontenttype": "application/json",
        "data": {"score": 690},
        "partitionkey": "k",
    }
    assert value == output('{"score": 690}', envelope="CloudEvents")[1], "the same in every run"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("hello", "text/plain"),
        ("", "text/plain"),
        ([1], "application/json"),
        (None, "application/json"),
        (float("nan"), "application/json"),
    ],
)
def test_a_cloud_event_says_what_its_data_is(answer: Any, kind: str) -> None:
    event = json.loads(output(answer, envelope="CloudEvents")[1])
    assert event["datacontenttype"] == kind
    assert event["data"] == (None if kind == "application/json" and answer != [1] else answer)


@pytest.mark.parametrize("key", [None, b""])
def test_a_cloud_event_without_a_key_has_no_partition_key(key: bytes | None) -> None:
    event = json.loads(output("x", record(key=key), envelope="CloudEvents")[1])
    assert "partitionkey" not in event


@pytest.mark.parametrize(
    ("template", "content"),
    [
        ("{{ result }}", {"score": 1, "name": "é"}),
        ('{"s": {{ result.score }}}', {"s": 1}),
        ("score {{ result.score }}", "score 1"),
        ("{{ result.score }}", 1),
        ("NaN", "NaN"),
        ("", ""),
    ],
)
@pytest.mark.parametrize(("envelope", "field"), [("Report", "report"), ("CloudEvents", "data")])
def test_an_envelope_carries_the_rendered_value(
    template: str, content: Any, envelope: str, field: str
) -> None:
    value = output({"score": 1, "name": "é"}, value=template, envelope=envelope)[1]
    assert json.loads(value)[field] == content


@pytest.mark.parametrize("envelope", ["Report", "CloudEvents"])
def test_half_a_surrogate_pair_is_escaped_in_envelopes(envelope: str) -> None:
    value = output("\ud800", value="<{{ result }}>", envelope=envelope)[1]
    assert "<\ud800>" in json.loads(value).values()


def test_a_chain_reads_the_previous_answers_fields() -> None:
    first = output('```json\n{"score": 640}\n```')[1]
    second = parse_binding(
        manifest(source={"topic": "out"}, flow={"input": "{{ value.result.score + 1 }}"})
    )
    request = Payload(second).request(record(first))
    assert request is not None
    assert request.input == "641"
