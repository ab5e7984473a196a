"""`flowbinding watch`, `status` and `tail` without a server; usage; the documentation."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest
import yaml
from aiokafka import TopicPartition
from rich.console import Console

from cli_fakes import FakeKube, live, run
from flowbinding_api import parse_binding
from flowbinding_api.binding import FlowBinding
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.offsets import Figures, Progress, encode
from flowbinding_cli import options
from flowbinding_cli.output import named
from flowbinding_cli.scan import Scope
from flowbinding_cli.status import (
    KafkaStatus,
    PartitionStatus,
    WorkerStatus,
    kafka_status,
    show,
)
from flowbinding_cli.tail import line_of, text_of, topics_of
from flowbinding_cli.watch import Row, changes


@pytest.fixture
def kube(monkeypatch: pytest.MonkeyPatch) -> FakeKube:
    """What the commands get when they connect."""
    fake = FakeKube()
    monkeypatch.setattr(options, "connect", lambda *_: fake)
    return fake


def test_an_unknown_binding_is_named(kube: FakeKube) -> None:
    result = run("status", "nobody")
    assert result.exit_code == 1
    assert result.stderr == "error: FlowBinding team/nobody: not found\n"


STATUS = {
    "replicas": 3,
    "readyReplicas": 2,
    "desiredReplicas": 3,
    "lag": 1234,
    "lagSeconds": 75.0,
    "arrivalRate": 10.04,
    "ratePerReplica": 5.0,
    "reason": "Backlog",
    "conditions": [{"type": "Ready", "status": "True", "reason": "Ready"}],
}


def test_programs_get_one_spelling_of_names(kube: FakeKube) -> None:
    kube.live["team/example"] = {**live(), "status": STATUS}
    [row] = json.loads(run("watch", "-o", "json").stdout)
    assert (row["lagSeconds"], row["perReplica"]) == (75.0, 5.0)
    worker = WorkerStatus("w", 3, seconds_per_message=0.5)
    partition = PartitionStatus("in", 0, None, 9, 9, done_beyond=4, worker="w")
    found = named(KafkaStatus([partition], [worker]))
    assert (found["workers"][0]["secondsPerMessage"], found["workers"][0]["oldestMs"]) == (
        0.5,
        None,
    )
    assert found["partitions"][0]["doneBeyond"] == 4


def test_watch_shows_what_users_ask_about(kube: FakeKube) -> None:
    kube.live["team/example"] = {**live(), "status": STATUS}
    kube.live["other/x"] = live("x", "other")
    result = run("watch", "--once")
    assert result.exit_code == 0
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == [
        *("NAME", "TOPIC", "FLOW", "READY", "DESIRED", "LAG", "OLDEST", "RATE", "REASON"),
    ]
    [row] = rows
    assert row.split() == [
        *("●", "example", "in", "Echo", "2/3", "3", "1,234", "75s", "10.0/s", "Backlog"),
    ]
    everywhere = run("watch", "--once", "-A").stdout
    assert [line.split()[0] for line in everywhere.splitlines()] == ["NAMESPACE", "other", "team"]


def test_watch_says_what_is_wrong(kube: FakeKube) -> None:
    broken = {"type": "Ready", "status": "False", "reason": "TopicMissing"}
    kube.live["team/example"] = {**live(), "status": {**STATUS, "conditions": [broken]}}
    row = yaml.safe_load(run("watch", "example", "-o", "yaml").stdout)[0]
    assert (row["healthy"], row["reason"]) == (False, "TopicMissing")


def test_an_invalid_binding_is_shown_all_the_same() -> None:
    row = Row.of({"metadata": {"name": "x"}, "spec": {"source": None, "flow": {}}})
    assert (row.name, row.topic, row.healthy) == ("x", "", None)
    assert len(row.cells()) == 9


def test_only_changed_rows_are_printed() -> None:
    one, two = Row.of(live("one")), Row.of(live("two"))
    moved = Row.of({**live("two"), "status": {"lag": 1}})
    assert changes([], [one, two]) == [one, two]
    assert changes([one, two], [one, moved]) == [moved]
    assert changes([one, two], [one, two]) == []


def binding(**spec: Any) -> FlowBinding:
    return parse_binding(live(**spec))


def figures(name: str, **said: Any) -> Figures:
    return Figures(zlib.crc32(name.encode()), slots=10, **said)


def test_status_puts_workers_and_partitions_together() -> None:
    places = [TopicPartition("in", n) for n in range(3)]
    worker = figures("w-0", busy=0.5, seconds_per_message=1.5, oldest_timestamp_ms=7, reason="Bad")
    found = kafka_status(
        starts=dict.fromkeys(places, 5),
        ends=dict.fromkeys(places, 100),
        commits={
            places[0]: (90, encode(90, Progress(95, (90, 92)), worker)),
            places[1]: (100, encode(100, Progress(100), figures("gone"))),
        },
        members={"flowbinding-w-0": places[:2], "flowbinding-w-1": places[2:]},
    )
    assert [(p.committed, p.lag, p.done_beyond, p.worker) for p in found.partitions] == [
        (90, 10, 3, "w-0"),
        (100, 0, 0, "w-0"),
        (None, 95, 0, "w-1"),
    ]
    first, second = found.workers
    assert (first.name, first.partitions, first.slots, first.busy) == ("w-0", 2, 10, 0.5)
    assert (first.seconds_per_message, first.oldest_ms, first.trouble) == (1.5, 7, "Bad: ")
    assert (second.name, second.slots) == ("w-1", None)


def test_status_is_readable() -> None:
    places = [TopicPartition("in", 0)]
    found = kafka_status(
        starts={places[0]: 0}, ends={places[0]: 10}, commits={places[0]: (4, "foreign")}, members={}
    )
    recorded = Console(record=True, width=160, file=StringIO())
    show(recorded, "team/example", binding(), STATUS, found)
    text = recorded.export_text()
    assert "2 ready, 3 there, 3 desired (Backlog)" in text
    assert "Lag: 6 in 1 partition\n" in text


def test_status_says_in_full_why_a_binding_is_not_ready(kube: FakeKube) -> None:
    why = "0 of 2 ready; " + "no node takes them, " * 20
    ready = {"type": "Ready", "status": "False", "reason": "WorkersUnavailable", "message": why}
    # Nor does a spec that breaks a rule keep the rest from being shown.
    broken = live(source={"topic": "in"}, flow={"backend": "Echo", "input": "{{ value. }}"})
    kube.live["team/example"] = {**broken, "status": {"conditions": [ready]}}
    result = run("status", "example")
    assert result.exit_code == 0
    assert f"Ready:    False, WorkersUnavailable: {why}\n" in result.stdout
    assert "note: nothing from Kafka: spec.flow.input: " in result.stderr


def test_a_schedule_that_has_not_run_yet(kube: FakeKube) -> None:
    cron: dict[str, Any] = {"source": {"topic": None, "schedule": {"cron": "0 2 * * *"}}}
    kube.live["team/nightly"] = {**live("nightly", **cron), "status": {"reason": "Scheduled"}}
    assert "Last run: none yet (Scheduled)" in run("status", "nightly").stdout


def test_a_file_where_a_name_is_expected_is_told(kube: FakeKube) -> None:
    for command in ("explain", "watch"):
        result = run(command, "./x.yaml")
        assert result.exit_code == 1
        assert "./x.yaml: expected the name of a FlowBinding, not a file" in result.stderr


@dataclass
class Record:
    """A consumed record."""

    topic: str
    headers: Sequence[tuple[str, bytes]]
    key: bytes | None = b"k"
    value: bytes | None = b'{"result": 1}'
    partition: int = 0
    offset: int = 9
    timestamp: int = 1_795_000_000_000


OWN = (("flowbinding-binding", b"team/example"), ("flowbinding-source", b"in-0-3"))
LETTER = (
    ("flowbinding-group", b"team.example"),
    ("flowbinding-reason", b"FlowFailed"),
    ("__connect.errors.topic", b"in"),
    ("__connect.errors.partition", b"0"),
    ("__connect.errors.offset", b"3"),
    ("__connect.errors.exception.message", b"no answer"),
)


def test_tail_tells_results_from_dead_letters() -> None:
    mine = binding(output={"topic": "out"})
    result = line_of(mine, Record("out", OWN))
    letter = line_of(mine, Record("in.example.dlq", LETTER))
    assert result is not None
    assert letter is not None
    assert (result["kind"], result["source"], result["value"]) == (
        "result",
        "in-0-3",
        {"result": 1},
    )
    assert (letter["kind"], letter["source"]) == ("dead-letter", "in-0-3")
    assert "DEAD" in text_of(letter).plain
    assert "FlowFailed: no answer" in text_of(letter).plain
    assert 'in-0-3 k {"result": 1}' in text_of(result).plain


@pytest.mark.parametrize(
    "record",
    [
        Record("out", (("flowbinding-binding", b"team/other"),)),
        Record("out", ()),
        Record("in.example.dlq", (("flowbinding-group", b"another"),)),
        Record("in.example.dlq", ()),
    ],
)
def test_tail_leaves_out_what_others_wrote(record: Record) -> None:
    assert line_of(binding(output={"topic": "out"}), record) is None


def test_topics_of_a_binding() -> None:
    assert topics_of(binding(output={"topic": "out"})) == ["out", "in.example.dlq"]
    assert topics_of(binding(deadLetter={"topic": "out"}, output={"topic": "out"})) == ["out"]
    with pytest.raises(FlowBindingError, match="writes nothing"):
        topics_of(binding(deadLetter={"enabled": False}))


def test_dead_letters_that_are_switched_off() -> None:
    with pytest.raises(FlowBindingError, match=r"deadLetter\.enabled is false"):
        Scope.of(binding(deadLetter={"enabled": False}))


@pytest.mark.parametrize(
    "arguments",
    [
        ("produce",),
        ("produce", "--topic", "t", "--text", "x"),
        ("produce", "x.yaml", "--text", "a", "--json", "1"),
        ("produce", "--topic", "t", "--bootstrap-servers", "h:1", "--text", "a", "--wait", "1"),
        ("produce", "x.yaml", "--text", "a", "--key", "k", "--key-field", "f"),
        ("dead-letters", "replay"),
        ("flow", "sample", "huge"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], kube: FakeKube) -> None:
    assert run(*arguments).exit_code == 2
