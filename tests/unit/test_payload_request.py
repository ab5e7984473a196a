"""From a record to a request: decoding, templates, filter, session, tweaks."""

from __future__ import annotations

from typing import Any

import pytest

from flowbinding_api import FlowBinding, parse_binding
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import Failure, Partition, ProcessingError, Record, Stage
from manifests import manifest


def binding(flow: dict[str, Any] | None = None, **source: Any) -> FlowBinding:
    risk = {"metadata": {"name": "risk", "namespace": "loan"}}
    return parse_binding(manifest(risk, flow=flow or {}, source=source))


def record(value: bytes | None, key: bytes | None = None, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "partition": Partition("in", 3),
        "offset": 42,
        "headers": (),
        "timestamp_ms": 1_795_257_558_250,
    }
    return Record(**{**fields, **changes, "key": key, "value": value})


def rendered(template: str, message: Record, **source: Any) -> str:
    request = Payload(binding({"input": template}, **source)).request(message)
    assert request is not None
    return request.input


def refused(payload: Payload, message: Record) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        payload.request(message)
    return raised.value


@pytest.mark.parametrize(
    ("format", "raw", "value", "text"),
    [
        ("Auto", b'{"a": 1}', '{"a":1}', '{"a": 1}'),
        ("Auto", b"[1, 2]", "[1,2]", "[1, 2]"),
        ("Auto", b"42", "42", "42"),
        ("Auto", b'"hi"', '"hi"', '"hi"'),
        ("Auto", b"null", "null", "null"),
        ("Auto", b"hello", '{"message":"hello"}', "hello"),
        ("Auto", b"", '{"message":""}', ""),
        ("Auto", b"NaN", '{"message":"NaN"}', "NaN"),
        ("Auto", b"1e999", '{"message":"1e999"}', "1e999"),
        ("Auto", b"\xef\xbb\xbf{}", "{}", "{}"),
        ("Auto", b"[" * 100_000, None, "[" * 100_000),
        ("Auto", b"9" * 5_000, None, "9" * 5_000),
        ("JSON", b'{"a": 1}', '{"a":1}', '{"a": 1}'),
        ("Text", b'{"a": 1}', '{"message":"{\\"a\\": 1}"}', '{"a": 1}'),
        ("Bytes", b"\xff\x00", '{"base64":"/wA="}', "/wA="),
        ("Auto", None, "null", ""),
        ("JSON", None, "null", ""),
        ("Text", None, "null", ""),
        ("Bytes", None, "null", ""),
    ],
)
def test_formats(format: str, raw: bytes | None, value: str | None, text: str) -> None:
    message = record(raw)
    assert rendered("{{ text }}", message, format=format) == text
    if value is not None:
        assert rendered("{{ value | tojson }}", message, format=format) == value


@pytest.mark.parametrize(
    ("format", "raw"),
    [
        ("JSON", b"hello"),
        ("JSON", b""),
        ("JSON", b"NaN"),
        ("JSON", b"[" * 100_000),
        ("JSON", b"\xff"),
        ("Auto", b"\xff"),
        ("Text", b"abc\xff"),
    ],
)
def test_bytes_that_do_not_fit_the_format_are_poison(format: str, raw: bytes) -> None:
    error = refused(Payload(binding(format=format)), record(raw))
    assert (error.failure, error.stage, error.reason) == (
        Failure.POISON,
        Stage.DECODE,
        "DecodeFailed",
    )


def test_every_variable() -> None:
    template = (
        "{{ key }} {{ headers.a }} {{ headers.n is none }} {{ topic }} {{ partition }}"
        " {{ offset }} {{ timestamp }} {{ binding.namespace }}/{{ binding.name }}"
    )
    message = record(b"{}", key=b"k", headers=(("a", b"1"), ("a", b"2"), ("n", None)))
    assert rendered(template, message) == "k 2 true in 3 42 2026-11-21T10:39:18.250Z loan/risk"


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (-1, "1970-01-01T00:00:00.000Z"),
        (0, "1970-01-01T00:00:00.000Z"),
        (2**62, "1970-01-01T00:00:00.000Z"),
    ],
)
def test_timestamps_without_a_date(timestamp: int, text: str) -> None:
    assert rendered("{{ timestamp }}", record(b"{}", timestamp_ms=timestamp)) == text


@pytest.mark.parametrize(
    ("raw", "text"), [(b'{"message": "hi"}', "hi"), (b"[1]", "[1]"), (b"42", "42"), (None, "")]
)
def test_the_default_input_is_the_message_else_the_text(raw: bytes | None, text: str) -> None:
    request = Payload(binding()).request(record(raw))
    assert request is not None
    assert request.input == text


def test_data_appears_in_text_as_json() -> None:
    message = record(b'{"o": {"a": "\xc3\xa9"}, "l": [1, null], "t": true, "n": null, "f": 0.1}')
    template = "{{ value.o }} {{ value.l }} {{ value.t }} [{{ value.n }}] {{ value.f ~ value.t }}"
    assert rendered(template, message) == '{"a":"é"} [1,null] true [] 0.1true'


def test_a_trailing_newline_of_the_template_is_kept() -> None:
    assert rendered("a\n", record(b"{}")) == "a\n"
    assert rendered("{{ 1 }}\n", record(b"{}")) == "1\n"


def test_constant_templates_are_kept_as_they_are() -> None:
    assert rendered("{% raw %}{{ x }}{% endraw %}{# gone #}!", record(b"{}")) == "{{ x }}!"


@pytest.mark.parametrize(
    ("key", "session"),
    [
        (b"customer-1", "customer-1"),
        (None, "in-3-42"),
        (b"", "in-3-42"),
        (b"\xff", "\\xff"),
        (b"  ", "in-3-42"),
    ],
)
def test_a_session_is_never_blank(key: bytes | None, session: str) -> None:
    request = Payload(binding()).request(record(b"{}", key=key))
    assert request is not None
    assert (request.session_id, request.request_id) == (session, "in-3-42")


@pytest.mark.parametrize(
    ("expression", "raw", "runs"),
    [
        ("value.amount > 1000", b'{"amount": 2000}', True),
        ("value.amount > 1000", b'{"amount": 10}', False),
        ("value.tags", b'{"tags": []}', False),
        ("headers.kind is defined", b"{}", False),
        ("value", None, False),
    ],
)
def test_filter(expression: str, raw: bytes | None, runs: bool) -> None:
    assert (Payload(binding(filter=expression)).request(record(raw)) is not None) is runs


@pytest.mark.parametrize("expression", ["value.amount", "value.amount > 1000", "value > 1"])
def test_a_filter_that_cannot_be_decided_is_poison(expression: str) -> None:
    error = refused(Payload(binding(filter=expression)), record(b"{}"))
    assert (error.failure, error.stage, error.reason) == (
        Failure.POISON,
        Stage.TEMPLATE,
        "TemplateFailed",
    )
    assert str(error).startswith("spec.source.filter line 1: ")


def test_a_failing_template_names_field_and_line() -> None:
    payload = Payload(binding({"input": "a\n{{ value.b }}\n{{ value.amount }}\n"}))
    error = refused(payload, record(b'{"b": 1}'))
    assert str(error) == "spec.flow.input line 3: 'dict object' has no attribute 'amount'"


def test_tweaks() -> None:
    tweaks = {
        "Model-x": {
            "temperature": "{{ value.t }}",
            "limit": " {{- value.n -}} ",
            "name": "m-{{ value.n }}",
            "tags": ["{{ value.tags }}", "{{ value.tags | map('upper') }}", 7],
            "gone": "{{ none }}",
            "literal": {"on": True, "none": 1.5, "text": "as it is"},
            "negated": "{{ -value.n }}",
        }
    }
    payload = Payload(binding({"tweaks": tweaks}))
    request = payload.request(record(b'{"t": 0.2, "n": 3, "tags": ["a"]}'))
    assert request is not None
    assert request.tweaks == {
        "Model-x": {
            "temperature": 0.2,
            "limit": 3,
            "name": "m-3",
            "tags": [["a"], ["A"], 7],
            "gone": None,
            "literal": {"on": True, "none": 1.5, "text": "as it is"},
            "negated": -3,
        }
    }


def test_tweaks_of_one_request_are_no_other_requests() -> None:
    payload = Payload(binding({"tweaks": {"a": {"b": [{"c": 1}]}}}))
    first, second = payload.request(record(b"{}")), payload.request(record(b"{}"))
    assert first is not None
    assert second is not None
    first.tweaks["a"]["b"][0]["c"] = 2
    assert second.tweaks == {"a": {"b": [{"c": 1}]}}


@pytest.mark.parametrize("leaf", ["{{ value.missing }}", "x {{ value.missing }}"])
def test_a_failing_tweak_names_its_leaf(leaf: str) -> None:
    error = refused(Payload(binding({"tweaks": {"M": {"list": [1, leaf]}}})), record(b"{}"))
    assert str(error) == (
        "spec.flow.tweaks.M.list[1] line 1: 'dict object' has no attribute 'missing'"
    )


def test_a_message_cannot_change_the_next_one() -> None:
    payload = Payload(binding({"input": "{% set value = 1 %}{{ value }}", "tweaks": {}}))
    assert payload.request(record(b"{}")) == payload.request(record(b"{}"))
    error = refused(Payload(binding({"input": "{{ value.update({'a': 1}) }}"})), record(b"{}"))
    assert "unsafe" in str(error)
