"""The whole worker while Kafka does not take results: what runs, what waits, what is committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker_fakes import P0, FakeBroker
from flowbinding_worker import work
from flowbinding_worker.control import circuit
from flowbinding_worker.delivery import outbox
from flowbinding_worker.kafka.port import KafkaUnavailableError
from flowbinding_worker.ports import Failure, FlowRequest
from flowbinding_worker.tracker import MAX_UNFINISHED
from worker_fakes import FakeFlow, Gate, Worker, figures, refuse, texts, until

DEAD = "in.example.dlq"


@pytest.fixture(autouse=True)
def _told_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "REPORT_SECONDS", 0.02)


def worker(broker: FakeBroker, folder: Path, flow: FakeFlow | None = None, **spec: Any) -> Worker:
    made = Worker(broker, flow or FakeFlow(), spec)
    made.spool = folder
    return made


def down(made: Worker, *topics: str) -> None:
    for topic in topics:
        made.producer.failing[topic] = KafkaUnavailableError("not there")


def of_key(broker: FakeBroker, key: bytes) -> list[bytes | None]:
    return [value for _, k, value, _ in broker.produced if k == key]


async def test_slots_are_free_while_results_wait_and_all_leave_in_order(
    broker: FakeBroker, tmp_path: Path
) -> None:
    for n in range(60):
        broker.produce([(b"k%d" % (n % 5), b"m%d" % n)])
    made = worker(broker, tmp_path, concurrency={"perReplica": 2})
    down(made, "out")
    async with made:
        await until(lambda: len(made.flow.calls) == 60)
        await until(lambda: made.count("in_flight") == 0)
        assert made.count("spool_records") == 60
        assert made.count("spool_bytes") > 0
        assert broker.produced == []
        assert made.committed <= 0
        waits = "not there; 60 results wait on disk"
        await until(lambda: P0 in broker.commits and figures(broker).message == waits)
        assert figures(broker).reason == "OutputUnavailable"
        assert figures(broker).busy < 1
        made.producer.failing.clear()
        await until(lambda: made.committed == 60)
        await until(lambda: figures(broker).reason == "")
        assert made.count("spool_records") == 0
    assert len(made.flow.calls) == 60
    assert len(broker.produced) == 60
    for n in range(5):
        assert of_key(broker, b"k%d" % n) == [b"m%d" % m for m in range(n, 60, 5)]


async def test_what_waits_on_disk_is_weighed_with_what_it_holds_in_memory(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MAX_BYTES", 19 * 4096)
    broker.produce(texts(*range(20)))
    made = worker(broker, tmp_path)
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == 20)
        await until(lambda: made.engine._parts.work.wanted() == {})
        made.producer.failing.clear()
        await until(lambda: made.committed == 20)
        await until(lambda: made.engine._parts.work.wanted() != {})


@pytest.mark.parametrize("ordering", ["Key", "Partition", "None"])
async def test_results_of_new_messages_queue_behind_those_that_wait(
    broker: FakeBroker, tmp_path: Path, ordering: str
) -> None:
    broker.produce(texts(*range(20), key=b"k"))
    made = worker(
        broker,
        tmp_path,
        concurrency={"perReplica": 1 if ordering == "None" else 4} | {"ordering": ordering},
    )
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == 20)
        made.producer.failing.clear()
        broker.produce(texts(*range(20, 40), key=b"k"))
        await until(lambda: made.committed == 40)
    assert broker.sent_to("out") == [b"m%d" % n for n in range(40)]


async def test_dead_letters_wait_as_well_without_any_output(
    broker: FakeBroker, tmp_path: Path
) -> None:
    broker.produce([(b"k", b"bad"), (b"k", b'{"message": "good"}'), (b"k", b"bad too")])
    made = worker(broker, tmp_path, source={"format": "JSON"}, output=None)
    down(made, DEAD)
    async with made:
        await until(lambda: made.count("spool_records") == 2)
        assert made.flow.inputs == ["good"], "the key goes on"
        waits = "not there; 2 dead letters wait on disk"
        await until(lambda: P0 in broker.commits and figures(broker).message == waits)
        assert figures(broker).reason == "DeadLetterUnavailable"
        assert made.committed == 0
        made.producer.failing.clear()
        await until(lambda: made.committed == 3)
    assert broker.sent_to(DEAD) == [b"bad", b"bad too"]
    assert made.count('dead_letters_total{reason="DecodeFailed"}') == 2


async def test_a_worker_that_starts_again_delivers_instead_of_running(
    broker: FakeBroker, tmp_path: Path
) -> None:
    gate = Gate("m3")
    broker.produce([*texts(0, 1, 2, key=b"k"), *texts(3, key=b"slow"), (b"x", b"poison")])

    async def answer(request: Any) -> str:
        if request.input == "poison":
            raise refuse(Failure.POISON)
        return await gate(request)

    first = worker(broker, tmp_path, FakeFlow(answer))
    down(first, "out", DEAD)
    async with first:
        await until(lambda: first.count("spool_records") == 4)
        await first.die()
    assert broker.produced == []
    second = worker(broker, tmp_path)
    down(second, "out", DEAD)
    async with second:
        await until(lambda: second.flow.inputs == ["m3"])
        await until(lambda: second.count("spool_records") == 5)
        second.producer.failing.clear()
        broker.produce(texts(4, key=b"k"))
        await until(lambda: second.committed == 6)
    assert second.flow.inputs == ["m3", "m4"], "what waited on disk did not run again"
    assert of_key(broker, b"k") == [b"m0", b"m1", b"m2", b"m4"]
    assert of_key(broker, b"slow") == [b"m3"]
    [(topic, _, _, headers)] = [p for p in broker.produced if p[1] == b"x"]
    assert topic == DEAD
    assert headers["flowbinding-reason"] == b"FlowFailing"
    assert second.count('dead_letters_total{reason="FlowFailing"}') == 1


async def test_what_was_delivered_and_not_committed_is_neither_run_nor_written_again(
    broker: FakeBroker, tmp_path: Path
) -> None:
    broker.produce(texts(0, 1, 2, key=b"k"))
    first = worker(broker, tmp_path)
    down(first, "out")
    async with first:
        await until(lambda: first.count("spool_records") == 3)
        first.consumer.refusal = KafkaUnavailableError("no commits")
        first.producer.failing.clear()
        await until(lambda: len(broker.produced) == 3)
        await first.die()
    assert first.committed <= 0
    second = worker(broker, tmp_path)
    async with second:
        await until(lambda: second.committed == 3)
    assert second.flow.calls == []
    assert len(broker.produced) == 3


async def test_without_the_volume_messages_run_again(broker: FakeBroker, tmp_path: Path) -> None:
    broker.produce(texts(0, 1, key=b"k"))
    first = worker(broker, tmp_path / "a")
    down(first, "out")
    async with first:
        await until(lambda: first.count("spool_records") == 2)
        await first.die()
    second = worker(broker, tmp_path / "b")
    async with second:
        await until(lambda: second.committed == 2)
    assert broker.sent_to("out") == [b"m0", b"m1"]


async def test_results_of_a_topic_made_anew_are_not_delivered(
    broker: FakeBroker, tmp_path: Path
) -> None:
    broker.produce(texts(0, key=b"k"))
    first = worker(broker, tmp_path)
    down(first, "out")
    async with first:
        await until(lambda: first.count("spool_records") == 1)
        await first.die()
    broker.logs.clear()
    broker.produce(texts(7, key=b"k"))
    second = worker(broker, tmp_path)
    async with second:
        await until(lambda: second.committed == 1)
        assert second.count("spool_records") == 0
    assert broker.sent_to("out") == [b"m7"]


async def test_a_result_that_rots_on_disk_is_made_again(broker: FakeBroker, tmp_path: Path) -> None:
    broker.produce(texts(0, 1, key=b"k"))
    made = worker(broker, tmp_path)
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == 2)
        path = min(tmp_path.rglob("*.spool"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        await until(lambda: made.count("spool_broken_total") == 1)
        made.producer.failing.clear()
        await until(lambda: made.committed == 2)
    assert made.flow.inputs == ["m0", "m1", "m0"]
    assert broker.sent_to("out") == [b"m1", b"m0"]
    assert made.count("spool_broken_total") == 1


async def test_a_result_found_too_large_when_kafka_is_back_is_a_dead_letter(
    broker: FakeBroker, tmp_path: Path
) -> None:
    broker.produce([(b"k", b"x" * 5000), (b"k", b"small")])
    made = worker(broker, tmp_path)
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == 2)
        made.producer.limit = 4000
        made.producer.failing.clear()
        await until(lambda: made.committed == 2)
    assert broker.sent_to("out") == [b"small"]
    [headers] = [h for topic, _, _, h in broker.produced if topic == DEAD]
    assert headers["flowbinding-reason"] == b"ResultTooLarge"


async def test_no_more_wait_than_a_commit_can_tell(broker: FakeBroker, tmp_path: Path) -> None:
    broker.produce(texts(*range(MAX_UNFINISHED + 200)))
    made = worker(broker, tmp_path, output={"topic": "out", "value": "{{ result }}"})
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == MAX_UNFINISHED, 30)
        assert len(made.flow.calls) == MAX_UNFINISHED
        made.producer.failing.clear()
        await until(lambda: made.committed == MAX_UNFINISHED + 200, 30)
    assert len(made.flow.calls) == len(broker.produced) == MAX_UNFINISHED + 200


async def test_a_full_disk_stops_the_worker_and_loses_nothing(
    broker: FakeBroker, tmp_path: Path
) -> None:
    broker.produce([(None, b"%d" % n + b"." * 7800) for n in range(20)])
    spool = {"topic": "out", "value": "{{ result }}", "spool": {"sizeLimit": "32Ki"}}
    made = worker(broker, tmp_path, output=spool, concurrency={"perReplica": 3})
    down(made, "out")
    async with made:
        await until(lambda: made.count("in_flight") == 3 and made.count("spool_records") == 4)
        full = "not there; 4 results wait on disk; the disk has no room for more"
        await until(lambda: P0 in broker.commits and figures(broker).message == full)
        assert len(made.flow.calls) <= 4 + 2 * 3, "as many in hand as there are slots, and running"
        made.producer.failing.clear()
        await until(lambda: made.committed == 20)
    assert len(made.flow.calls) == len(broker.produced) == 20


async def test_sigterm_waits_for_results_on_disk(broker: FakeBroker, tmp_path: Path) -> None:
    broker.produce(texts(0, 1, 2, key=b"k"))
    made = worker(broker, tmp_path)
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == 3)
        made.stop.ask()
        await until(lambda: not made.engine.ready)
        made.producer.failing.clear()
        await until(made.task.done)
    assert broker.sent_to("out") == [b"m0", b"m1", b"m2"]
    assert made.committed == 3


async def test_what_cannot_be_written_before_the_end_is_given_back(
    broker: FakeBroker, tmp_path: Path
) -> None:
    broker.produce(texts(0, 1, key=b"k"))
    made = worker(broker, tmp_path / "a")
    down(made, "out")
    async with made:
        await until(lambda: made.count("spool_records") == 2)
        made.stop.ask()
        made.stop.ask()
        await until(made.task.done)
    assert made.committed <= 0
    other = worker(broker, tmp_path / "b")
    async with other:
        await until(lambda: other.committed == 2)
    assert broker.sent_to("out") == [b"m0", b"m1"]


async def test_a_probe_that_becomes_a_dead_letter_holds_up_no_other(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "FIRST_PROBE_SECONDS", 0.02)
    broker.produce([(None, b'{"message": "good"}'), (None, b"bad")])

    async def once(request: FlowRequest) -> str:
        if len(flow.calls) == 1:
            raise refuse(Failure.CONFIGURATION)
        return request.input

    flow = FakeFlow(once)
    spec: dict[str, Any] = {
        "source": {"format": "JSON"},
        "concurrency": {"perReplica": 1},
        "output": None,
    }
    made = worker(broker, tmp_path, flow, **spec)
    down(made, DEAD)
    async with made:
        await until(lambda: flow.inputs == ["good", "good"])
        assert made.count("spool_records") == 1
        made.producer.failing.clear()
        await until(lambda: made.committed == 2)
