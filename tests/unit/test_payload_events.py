"""Messages in envelopes: CloudEvents and reports."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api import FlowBinding, parse_binding
from flowbinding_worker.payload import Payload
from flowbinding_worker.payload.decode import decode
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

Headers = tuple[tuple[str, bytes | None], ...]
STRUCTURED: Headers = (("content-type", b"application/cloudevents+json; charset=utf-8"),)
EVENT = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/shop",
    "type": "com.shop.order",
    "subject": "o-7",
    "time": "2026-11-21T10:00:00Z",
    "tenant": "acme",
}
BINARY: Headers = tuple((f"ce_{name}", value.encode()) for name, value in EVENT.items())


def binding(format: str, **spec: Any) -> FlowBinding:
    risk = {"metadata": {"name": "risk"}}
    return parse_binding(manifest(risk, source={"format": format}, **spec))


def record(value: Any, headers: Headers = ()) -> Record:
    raw = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record(Partition("in", 0), 7, b"k", raw, headers, 0)


def seen(message: Record, format: str = "CloudEvents") -> dict[str, Any]:
    """`value`, `text` and `event` of a message."""
    names = decode(message, binding(format).spec.source.format, {})
    return {name: names[name] for name in ("value", "text", "event")}


def refusal(message: Record, format: str = "CloudEvents") -> str:
    with pytest.raises(ProcessingError) as raised:
        seen(message, format)
    error = raised.value
    assert (error.failure, error.stage) == (Failure.POISON, Stage.DECODE)
    assert error.reason == "DecodeFailed"
    return str(error)


@pytest.mark.parametrize("format", ["CloudEvents", "Auto"])
def test_a_structured_event(format: str) -> None:
    message = record({**EVENT, "data": {"n": 1}}, STRUCTURED)
    assert seen(message, format) == {"value": {"n": 1}, "text": '{"n":1}', "event": EVENT}


@pytest.mark.parametrize("format", ["CloudEvents", "Auto"])
def test_a_binary_event(format: str) -> None:
    headers = (*BINARY, ("Content-Type", b"application/json"), ("other", b"x"))
    assert seen(record(b'{"n": 1}', headers), format) == {
        "value": {"n": 1},
        "text": '{"n": 1}',
        "event": {**EVENT, "datacontenttype": "application/json"},
    }


def test_json_stays_as_it_is_where_nothing_says_that_it_is_an_event() -> None:
    event = {**EVENT, "data": {"n": 1}}
    assert seen(record(event), "Auto")["value"] == event
    assert seen(record(event, STRUCTURED), "JSON")["value"] == event
    assert seen(record(event))["value"] == {"n": 1}, "who asks for events need not have the header"


@pytest.mark.parametrize(
    ("about", "value", "text"),
    [
        ({}, None, ""),
        ({"data": None}, None, ""),
        ({"data": "hello"}, "hello", "hello"),
        ({"data": [1, "é"]}, [1, "é"], '[1,"é"]'),
        ({"data": "hi", "datacontenttype": "text/plain"}, {"message": "hi"}, "hi"),
        ({"data": "<a/>", "datacontenttype": "application/xml"}, {"message": "<a/>"}, "<a/>"),
        ({"data_base64": "eyJuIjogMX0="}, {"n": 1}, '{"n": 1}'),
        ({"data_base64": "/wA=", "datacontenttype": "image/png"}, {"base64": "/wA="}, "/wA="),
    ],
)
def test_data_of_structured_events(about: dict[str, Any], value: Any, text: str) -> None:
    decoded = seen(record({**EVENT, **about}))
    assert (decoded["value"], decoded["text"]) == (value, text)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (None, b'{"n": 1}', {"n": 1}),
        (None, b"hello", {"message": "hello"}),
        (None, None, None),
        (b"text/plain", b'{"n": 1}', {"message": '{"n": 1}'}),
        (b"application/vnd.shop+json", b"[1]", [1]),
        (b"application/octet-stream", b"\xff\x00", {"base64": "/wA="}),
    ],
)
def test_data_of_binary_events(kind: bytes | None, raw: bytes | None, value: Any) -> None:
    headers = BINARY if kind is None else (*BINARY, ("content-type", kind))
    assert seen(record(raw, headers))["value"] == value


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (record(b"hello"), "the value is not JSON"),
        (record(b"\xff"), "not UTF-8"),
        (record(b"[" * 100_000), "nested too deeply"),
        (record([1]), "no JSON object"),
        (record({"n": 1}), "no specversion 1.x"),
        (record({**EVENT, "specversion": "0.3"}), "no specversion 1.x"),
        (record({**EVENT, "id": "", "type": 7}), "no id and no type"),
        (record({**EVENT, "data_base64": "?"}), "no base64"),
        (record(b"{", (*BINARY, ("content-type", b"text/json"))), "data is not JSON"),
        (record(b"x", (("ce_specversion", b"1.0"),)), "no id and no source and no type"),
        (
            record(b"[]", (("content-type", b"application/cloudevents-batch+json"),)),
            "the content type is application/cloudevents-batch+json",
        ),
    ],
)
def test_what_is_no_event_is_a_dead_letter(message: Record, why: str) -> None:
    assert why in refusal(message)


def test_auto_takes_what_only_claims_to_be_an_event() -> None:
    assert seen(record(b"hello", STRUCTURED), "Auto") == {
        "value": {"message": "hello"},
        "text": "hello",
        "event": None,
    }


def test_templates_see_the_event() -> None:
    spec = binding(
        "CloudEvents",
        flow={"backend": "Echo", "input": "{{ event.type }} {{ event.tenant }} {{ value.n }}"},
    )
    request = Payload(spec).request(record({**EVENT, "data": {"n": 1}}))
    assert request is not None
    assert request.input == "com.shop.order acme 1"


def test_a_report() -> None:
    envelope = {"timestamp": "t", "source": "loan/risk", "topic": "out"}
    assert seen(record({**envelope, "report": {"n": 1}}), "Report") == {
        "value": {"n": 1},
        "text": '{"n":1}',
        "event": envelope,
    }
    assert "no member 'report'" in refusal(record(envelope), "Report")
    assert "no JSON object" in refusal(record([1]), "Report")


@pytest.mark.parametrize("format", ["CloudEvents", "Report"])
def test_a_tombstone_stays_one(format: str) -> None:
    assert seen(record(None), format) == {"value": None, "text": "", "event": None}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("envelope", ["CloudEvents", "Report"])
@given(answer=JSON)
def test_a_chain_reads_what_the_agent_before_has_wrapped(envelope: str, answer: Any) -> None:
    first = Payload(binding("Auto", output={"topic": "out", "envelope": envelope}))
    request = FlowRequest(request_id="r", input="", session_id="s")
    # Text that is data becomes data on its way out.
    data = {"answer": answer}
    written = first.output(record({}), request, FlowResult(data))
    assert seen(record(written.value), envelope)["value"] == data


NAMES = st.sampled_from(["content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "x"])
CONTENTS = st.sampled_from([b"1.0", b"application/cloudevents+json", b"text/plain"]) | st.binary()


@given(
    raw=st.none() | st.binary() | JSON.map(lambda value: json.dumps(value).encode()),
    headers=st.lists(st.tuples(NAMES, st.none() | CONTENTS), max_size=6),
    format=st.sampled_from(["Auto", "CloudEvents", "Report", "JSON"]),
)
def test_whatever_comes_is_read_or_refused(
    raw: bytes | None, headers: list[tuple[str, bytes | None]], format: str
) -> None:
    with suppress(ProcessingError):
        assert set(seen(record(raw, tuple(headers)), format)) == {"value", "text", "event"}
