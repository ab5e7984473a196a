"""Headers of results and dead letters."""

from __future__ import annotations

import pytest

from flowbinding_api.spec import HeaderStyle
from flowbinding_worker.delivery.headers import (
    TRACES,
    Identity,
    dead_letter_headers,
    result_headers,
)
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import Headers
from flowbinding_worker.ports import Failure, Partition, ProcessingError, Record, Stage
from flowbinding_worker.tracker import Tracker

WHO = Identity("loan/risk", "pod-1", "loan.risk", "risk-agent", "Langflow")
MINE = ("mine", b"\xff\x00")
SPRING = {
    "kafka_dlt-original-topic": b"in",
    "kafka_dlt-original-partition": b"\x00\x00\x00\x03",
    "kafka_dlt-original-offset": b"\x00\x00\x00\x01\x00\x00\x00\x07",
    "kafka_dlt-original-timestamp": (1_795_257_558_250).to_bytes(8, "big"),
    "kafka_dlt-original-timestamp-type": b"LogAppendTime",
    "kafka_dlt-original-consumer-group": b"loan.risk",
    "kafka_dlt-exception-fqcn": b"flowbinding_worker.ports.ProcessingError",
    "kafka_dlt-exception-message": b"no",
}


def record(*headers: tuple[str, bytes | None]) -> Record:
    place = Partition("in", 3)
    when = 1_795_257_558_250
    return Record(place, (1 << 32) + 7, b"k", b"v", headers, when, "LogAppendTime")


def error() -> ProcessingError:
    try:
        raise ProcessingError("no", failure=Failure.POISON, stage=Stage.CALL, reason="Refused")
    except ProcessingError as raised:
        return raised


def letter(style: HeaderStyle, *headers: tuple[str, bytes | None]) -> Headers:
    return dead_letter_headers(WHO, Job(record(*headers), Tracker()), error(), 5, style)


def prefixes(headers: Headers) -> set[str]:
    known = ("__connect.errors.", "kafka_dlt-", "flowbinding-")
    return {p for p in known for name, _ in headers if name.startswith(p)}


@pytest.mark.parametrize(
    ("style", "names"),
    [
        (HeaderStyle.CONNECT, {"__connect.errors."}),
        (HeaderStyle.SPRING, {"kafka_dlt-"}),
        (HeaderStyle.BOTH, {"__connect.errors.", "kafka_dlt-"}),
    ],
)
def test_styles(style: HeaderStyle, names: set[str]) -> None:
    headers = letter(style, MINE)
    assert headers[0] == MINE
    assert prefixes(headers) == names | {"flowbinding-"}
    assert len({name for name, _ in headers}) == len(headers)


def test_springs_numbers_are_big_endian_bytes() -> None:
    headers = dict(letter(HeaderStyle.SPRING))
    assert {name: headers[name] for name in SPRING} == SPRING
    trace = headers["kafka_dlt-exception-stacktrace"]
    assert trace is not None
    assert b"ProcessingError: no" in trace
    assert "kafka_dlt-exception-cause-fqcn" not in headers


def test_long_answers_and_traces_are_cut() -> None:
    """The broker has a limit for a record, and the message itself needs most of it."""
    long = ProcessingError(
        "e" * 10_000,
        failure=Failure.POISON,
        stage=Stage.CALL,
        reason="Refused",
        response="r" * 10_000,
    )
    job = Job(record(), Tracker())
    headers = dict(dead_letter_headers(WHO, job, long, 5, HeaderStyle.BOTH))
    assert headers["flowbinding-response"] == b"r" * 2048
    for name in TRACES:
        assert len(headers[name] or b"") == 4096


def test_the_class_of_a_cause_is_told_and_nothing_else_of_it() -> None:
    caused = error()
    caused.__cause__ = ValueError("s3cret")
    headers = dead_letter_headers(WHO, Job(record(), Tracker()), caused, 5, HeaderStyle.BOTH)
    assert dict(headers)["kafka_dlt-exception-cause-fqcn"] == b"builtins.ValueError"
    assert not any(b"s3cret" in (value or b"") for _, value in headers)


@pytest.mark.parametrize("before", HeaderStyle)
@pytest.mark.parametrize("after", HeaderStyle)
def test_a_message_that_dies_twice_tells_of_the_last_time_only(
    before: HeaderStyle, after: HeaderStyle
) -> None:
    once = letter(before, MINE, ("flowbinding-truncated", b"value"), ("mine", None))
    assert letter(after, *once) == letter(after, MINE, ("mine", None))


def test_results_carry_the_messages_headers_and_where_it_came_from() -> None:
    headers = result_headers(
        WHO, record(MINE, ("flowbinding-source", b"old"), ("kafka_dlt-x", b""))
    )
    assert headers == [
        MINE,
        ("flowbinding-binding", b"loan/risk"),
        ("flowbinding-source", b"in-3-4294967303"),
    ]


DESCRIBING = (("Content-Type", b"text/csv"), ("ce_id", b"1"), ("CE_type", b"asked"))


@pytest.mark.parametrize("own", [None, "application/cloudevents+json"])
def test_what_describes_the_message_does_not_travel_to_its_result(own: str | None) -> None:
    headers = result_headers(WHO, record(*DESCRIBING, MINE, ("cell", b"7")), own)
    names = ("flowbinding-binding", "flowbinding-source")
    assert [h for h in headers if h[0] not in names] == [
        MINE,
        ("cell", b"7"),
        *([("content-type", own.encode())] if own else []),
    ]


def test_a_dead_letter_is_still_described_by_the_messages_headers() -> None:
    assert letter(HeaderStyle.CONNECT, *DESCRIBING)[: len(DESCRIBING)] == list(DESCRIBING)
