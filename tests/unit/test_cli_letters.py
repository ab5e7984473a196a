"""Dead letters as the worker writes them, and which of them a filter means."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.headers import RESULT_BINDING, RESULT_SOURCE
from flowbinding_api.spec import HeaderStyle
from flowbinding_cli.letters import (
    DeadLetter,
    Filter,
    Source,
    ago,
    dead_letter,
    iso,
    moment_ms,
)
from flowbinding_worker.delivery import headers
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Failure, Partition, ProcessingError, Record, Stage
from flowbinding_worker.tracker import Tracker

WHO = headers.Identity("default/support", "support-0", "default.support", "agent", "Langflow")
NOW_MS = 1_795_000_000_000
OWN_HEADERS: list[tuple[str, bytes | None]] = [("trace", b"1"), ("trace", b"2"), ("none", None)]


def written_by_a_worker(style: HeaderStyle = HeaderStyle.CONNECT) -> DeadLetter:
    record = Record(Partition("in", 3), 42, b"k", b'{"a":1}', OWN_HEADERS, NOW_MS - 5000)
    error = ProcessingError(
        "no answer", failure=Failure.TRANSIENT, stage=Stage.CALL, reason="FlowFailed", status=500
    )
    job = Job(record, Tracker(), attempts=5)
    found = headers.dead_letter_headers(WHO, job, error, NOW_MS, style)
    return dead_letter(Source("in.support.dlq", 3, 7), record.key, record.value, found, NOW_MS)


@pytest.mark.parametrize("style", HeaderStyle)
def test_what_a_worker_wrote_is_understood(style: HeaderStyle) -> None:
    letter = written_by_a_worker(style)
    assert letter.source == Source("in", 3, 42)
    assert (letter.reason, letter.message) == ("FlowFailed", "no answer")
    assert letter.stage == ("" if style is HeaderStyle.SPRING else "CALL")
    assert letter.group == "default.support"
    assert letter.about["attempts"] == "5"
    assert letter.about["http-status"] == "500"
    assert letter.failed_ms == NOW_MS
    assert not letter.cut
    assert letter.id == "in.support.dlq-3-7"


@pytest.mark.parametrize("style", HeaderStyle)
def test_the_original_message_is_what_it_was(style: HeaderStyle) -> None:
    letter = written_by_a_worker(style)
    assert (letter.key, letter.value, letter.headers) == (b"k", b'{"a":1}', OWN_HEADERS)


def test_the_names_are_the_workers() -> None:
    record = Record(Partition("in", 3), 42, None, b"", (), 0)
    assert dict(headers.result_headers(WHO, record)) == {
        RESULT_BINDING: b"default/support",
        RESULT_SOURCE: str(Source("in", 3, 42)).encode(),
    }
    cut = dead_letter(Source("d", 0, 0), None, None, [(headers.TRUNCATED, b"value")], 0)
    assert cut.cut


@pytest.mark.parametrize(
    "found", [[], [("flowbinding-attempts", None)], [("__connect.errors.partition", b"x")]]
)
def test_a_record_of_somebody_else_is_no_letter_of_ours(
    found: list[tuple[str, bytes | None]],
) -> None:
    letter = dead_letter(Source("d", 0, 1), None, b"", found, 5)
    assert (letter.group, letter.source, letter.failed_ms) == ("", None, 5)


@pytest.mark.parametrize(
    ("chosen", "matches"),
    [
        (Filter(), True),
        (Filter(ids={"in.support.dlq-3-7"}), True),
        (Filter(ids={"3-7"}), True),
        (Filter(ids={"3-8"}), False),
        (Filter(reasons=["other", "flowfailed"]), True),
        (Filter(reasons=["Other"]), False),
        (Filter(stages=["call"]), True),
        (Filter(stages=["DECODE"]), False),
        (Filter(source_topic="in", source_partition=3), True),
        (Filter(source_topic="out"), False),
        (Filter(source_partition=4), False),
        (Filter(since_ms=NOW_MS, until_ms=NOW_MS + 1), True),
        (Filter(since_ms=NOW_MS + 1), False),
        (Filter(until_ms=NOW_MS), False),
        (Filter(reasons=["FlowFailed"], source_partition=4), False),
    ],
)
def test_a_filter_takes_what_fits_all_of_it(chosen: Filter, *, matches: bool) -> None:
    assert chosen.matches(written_by_a_worker()) is matches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2026-11-21T09:58:30Z"),
        ("15m", "2026-11-21T09:45:00Z"),
        ("2h", "2026-11-21T08:00:00Z"),
        ("1w", "2026-11-14T10:00:00Z"),
        ("2026-11-20T00:00:00Z", "2026-11-20T00:00:00Z"),
        ("2026-11-20T01:00:00+01:00", "2026-11-20T00:00:00Z"),
    ],
)
def test_times(text: str, expected: str) -> None:
    assert iso(moment_ms(text, datetime(2026, 11, 21, 10, tzinfo=UTC))) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "2x", "-2h", "999999999w", "2026-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(FlowBindingError, match="is no time"):
        moment_ms(text, datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0s"), (42.9, "42s"), (150, "2m"), (3 * 3600, "3h"), (1e6, "11d")]
)
def test_ages_look_as_in_kubectl(seconds: float, text: str) -> None:
    assert ago(seconds) == text
