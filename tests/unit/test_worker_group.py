"""The engine on an in-memory Kafka: commits, rebalances, and consumers that fail."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from flowbinding_api.offsets import decode
from flowbinding_worker import committer as committer_module
from flowbinding_worker import engine as engine_module
from flowbinding_worker.kafka import consumer as kafka_module
from flowbinding_worker.kafka.port import (
    ConsumerBrokenError,
    KafkaUnavailableError,
    MembershipLostError,
    Position,
    RebalancingError,
    RecordUnreadableError,
)
from flowbinding_worker.ports import FlowRequest, Partition, Record
from worker_fakes import P0, P1, FakeBroker, FakeFlow, Gate, Worker, figures, texts, until


async def test_the_commit_waits_for_the_slow_head_and_says_what_is_done_beyond(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1, 2))
    async with Worker(broker, FakeFlow(gate)) as worker:
        await until(lambda: len(broker.produced) == 2)
        await until(
            lambda: (
                worker.committed == 0
                and decode(0, broker.commits[P0].metadata).progress.hi_done == 3
            )
        )
        gate.events["m0"].set()
        await until(lambda: worker.committed == 3)


async def test_a_killed_worker_repeats_only_what_was_unfinished(broker: FakeBroker) -> None:
    broker.produce(texts(*range(6)))
    async with Worker(broker, FakeFlow(Gate("m1", "m4"))) as worker:
        await until(
            lambda: (
                worker.committed == 1
                and decode(1, broker.commits[P0].metadata).progress.hi_done == 6
            )
        )
        await worker.die()
    async with Worker(broker, FakeFlow()) as second:
        await until(lambda: second.committed == 6)
        assert sorted(second.flow.inputs) == ["m1", "m4"]
    assert sorted(map(str, broker.sent_to("out"))) == [f"b'm{n}'" for n in range(6)]


UNWRITABLE = KafkaUnavailableError("not authorized", retriable=False)


async def test_a_rebalance_waits_for_running_messages_that_cannot_be_handed_over(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1))
    worker = Worker(broker, FakeFlow(gate), {"concurrency": {"perReplica": 1}})
    worker.offsets.refusal = UNWRITABLE
    async with worker:
        await until(lambda: worker.flow.running == 1)
        revoking = asyncio.create_task(worker.consumer.revoke())
        gate.events["m0"].set()
        await revoking
        assert worker.committed == 1
        assert worker.flow.inputs == ["m0"], "nothing new is started"
        await worker.consumer.assign([P0])
        await until(lambda: worker.committed == 2)
    assert worker.flow.inputs == ["m0", "m1"]


async def test_a_call_longer_than_the_drain_is_cancelled_and_has_no_effect(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbinding_worker.assembly.drain_seconds", lambda _: 0.05)
    released = asyncio.Event()

    async def answer(request: FlowRequest) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            # As bad as a flow can be: it does not let itself be cancelled.
            await released.wait()
        return "late"

    monkeypatch.setattr("flowbinding_worker.runs.CANCEL_SECONDS", 0.05)
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow(answer))
    worker.offsets.refusal = UNWRITABLE
    async with worker:
        await until(lambda: worker.flow.running == 1)
        await worker.consumer.revoke()
        released.set()
        await until(lambda: worker.flow.running == 0)
        await until(lambda: worker.count("in_flight") == 0)
        assert broker.produced == []
        assert worker.committed <= 0


async def test_lost_membership_drops_everything(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    async with Worker(broker, FakeFlow(gate)) as worker:
        await until(lambda: worker.flow.running == 1)
        await worker.consumer.revoke(lost=True)
        await until(lambda: worker.flow.running == 0)
        assert worker.committed <= 0
        assert broker.registers == {}, "others may have it by now: there is nothing to hand over"
        assert broker.produced == []


async def test_a_refused_commit_ends_the_epoch(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1))
    worker = Worker(broker, FakeFlow(gate))
    worker.consumer.refusal = MembershipLostError("somebody else")
    async with worker:
        await until(lambda: len(worker.flow.calls) == 2)
        await until(lambda: worker.flow.running == 0)
        worker.consumer.refusal = None
        gate.events["m0"].set()
        await worker.consumer.revoke(lost=True)
        await worker.consumer.assign([P0])
        await until(lambda: worker.committed == 2)


async def test_a_commit_that_hangs_is_given_up_and_tried_again(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    worker.consumer.hang = True
    async with worker:
        await until(lambda: len(broker.produced) == 1)
        await until(lambda: worker.engine._parts.trouble.reason == "KafkaUnreachable")
        worker.consumer.hang = False
        await until(lambda: worker.committed == 1)
        await until(lambda: worker.engine._parts.trouble.reason == "")


async def test_commits_never_go_back_and_never_pass_what_is_unfinished(broker: FakeBroker) -> None:
    pending: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def answer(request: FlowRequest) -> str:
        await pending[request.input].wait()
        return request.input

    broker.produce(texts(*range(200)))
    async with Worker(broker, FakeFlow(answer), {"concurrency": {"perReplica": 50}}) as worker:
        for number in (*range(1, 50, 2), *range(0, 50, 2), *range(199, 49, -1)):
            pending[f"m{number}"].set()
            await asyncio.sleep(0.001)
        await until(lambda: worker.committed == 200)
    offsets = [position[P0].offset for position in broker.history]
    assert offsets == sorted(offsets)


async def test_an_idle_worker_does_not_commit(broker: FakeBroker) -> None:
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 0)
        broker.produce(texts(0))
        await until(lambda: worker.committed == 1)
        await until(lambda: figures(broker).busy == 0)
        commits = len(broker.history)
        for _ in range(10):
            await asyncio.sleep(0.02)
        assert len(broker.history) <= commits + 1


async def test_compacted_logs_are_committed_to_their_end(broker: FakeBroker) -> None:
    broker.logs[P0] = [Record(P0, o, None, b"m", (), 0) for o in (3, 7, 20)]
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 21)


@pytest.mark.parametrize("metadata", ["someone else's", "FB1AAAA", "FB1" + "x" * 5000])
async def test_foreign_metadata_is_ignored_and_counted(broker: FakeBroker, metadata: str) -> None:
    broker.produce(texts(0, 1))
    broker.commits[P0] = Position(1, metadata)
    async with Worker(broker, FakeFlow()) as worker:
        await until(lambda: worker.committed == 2)
        assert worker.count("metadata_ignored_total") == 1
    assert worker.flow.inputs == ["m1"]


async def test_a_topic_made_anew_is_read_from_its_beginning(broker: FakeBroker) -> None:
    broker.produce(texts(*range(10)))
    async with Worker(broker, FakeFlow(Gate("m2"))) as worker:
        await until(
            lambda: (
                worker.committed == 2
                and decode(2, broker.commits[P0].metadata).progress.hi_done == 10
            )
        )
        await worker.die()
    broker.logs.clear()
    broker.produce(texts(100))
    async with Worker(broker, FakeFlow()) as second:
        await until(lambda: second.committed == 1)
        assert second.flow.inputs == ["m100"]
        assert second.count("metadata_ignored_total") == 1


async def test_kafka_that_is_not_there_is_waited_for(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    worker.consumer.unreachable = True
    async with worker:
        await until(lambda: worker.engine._parts.trouble.reason == "KafkaUnreachable")
        assert not worker.engine.ready
        worker.consumer.unreachable = False
        await until(lambda: worker.committed == 1)


async def test_a_broken_consumer_is_made_anew(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    errors: Iterator[Exception] = iter([ConsumerBrokenError("gone"), KafkaUnavailableError("no")])
    poll = worker.consumer.poll

    async def breaking(*args: Any) -> Any:
        if (error := next(errors, None)) is not None:
            raise error
        return await poll(*args)

    monkeypatch.setattr(worker.consumer, "poll", breaking)
    async with worker:
        await until(lambda: worker.committed == 1)
        assert worker.consumer.stopped


async def test_a_consumer_that_cannot_be_stopped_ends_the_worker(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(broker, FakeFlow())
    worker.consumer.clean = False

    async def broken(*_: Any) -> Any:
        raise ConsumerBrokenError("gone")

    monkeypatch.setattr(worker.consumer, "poll", broken)
    async with worker:
        with pytest.raises(ConsumerBrokenError):
            await asyncio.wait_for(asyncio.shield(worker.task), 5)


async def test_a_consumer_that_is_stuck_is_made_anew(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STUCK_SECONDS", 0.05)
    worker = Worker(broker, FakeFlow())
    async with worker:
        await until(lambda: worker.committed == 0)
        read = worker.consumer._read

        def stuck(partition: Partition, most: int) -> Any:
            if not worker.consumer.stopped:
                return read(partition, 0)
            return read(partition, most)

        monkeypatch.setattr(worker.consumer, "_read", stuck)
        end = broker.end
        monkeypatch.setattr(broker, "end", lambda p: end(p) if worker.consumer.stopped else 0)

        async def ends(partitions: Any) -> Any:
            return {p: end(p) for p in partitions}

        monkeypatch.setattr(worker.consumer, "ends", ends)
        broker.produce(texts(0))
        await until(lambda: worker.committed == 1)
        assert worker.consumer.stopped


async def test_figures_tell_about_the_load(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    spec = {"concurrency": {"perReplica": 1}}
    async with Worker(broker, FakeFlow(gate), spec) as worker:
        await until(lambda: P0 in broker.commits and figures(broker).oldest_timestamp_ms == 1_000)
        await until(lambda: figures(broker).busy > 0)
        gate.events["m0"].set()
        await until(lambda: worker.committed == 1)
        assert figures(broker).slots == 1
        assert (figures(broker).seconds_per_message or 0) > 0
        assert figures(broker).oldest_timestamp_ms is None


async def test_a_slow_partition_does_not_hold_the_others_back(broker: FakeBroker) -> None:
    """Two partitions, one slow: the other is committed meanwhile."""
    gate = Gate("m0")
    broker.produce(texts(0), 0)
    broker.produce(texts(1, 2), 1)
    worker = Worker(broker, FakeFlow(gate), {"concurrency": {"ordering": "Partition"}})
    worker.consumer.on_start = [P0, P1]
    async with worker:
        await until(lambda: P1 in broker.commits and broker.commits[P1].offset == 2)
        assert worker.committed == 0
        gate.events["m0"].set()
        await until(lambda: worker.committed == 1)


async def test_a_record_that_cannot_be_read_stops_its_partition_until_it_is_assigned_anew(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "STUCK_SECONDS", 0.05)
    broker.produce(texts(0), 0)
    broker.produce(texts(1), 1)
    worker = Worker(broker, FakeFlow())
    worker.consumer.on_start = [P0, P1]
    poll, unreadable = worker.consumer.poll, True

    async def failing(wanted: Any, seconds: float) -> Any:
        if unreadable and P0 in wanted and worker.committed == 1:
            raise RecordUnreadableError(P0, 1)
        return await poll(wanted, seconds)

    monkeypatch.setattr(worker.consumer, "poll", failing)
    async with worker:
        await until(lambda: P1 in broker.commits and broker.commits[P1].offset == 1)
        await until(lambda: figures(broker, P1).reason == "RecordUnreadable")
        assert "in-0: the record at or next after offset 1" in figures(broker, P1).message
        broker.produce(texts(2), 0)
        await asyncio.sleep(0.1)
        assert not worker.consumer.stopped, "it is not stuck"
        await worker.consumer.revoke()
        unreadable = False
        await worker.consumer.assign([P0])
        await until(lambda: worker.committed == 2)
        await until(lambda: figures(broker).reason == "")


async def test_an_assignment_that_comes_while_a_broken_consumer_stops_is_void(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.produce(texts(0))
    worker = Worker(broker, FakeFlow())
    errors = iter([ConsumerBrokenError("gone")])
    poll, stop = worker.consumer.poll, worker.consumer.stop

    async def breaking(*args: Any) -> Any:
        if (error := next(errors, None)) is not None:
            raise error
        return await poll(*args)

    async def stopping() -> bool:
        await worker.consumer.assign([P1])
        worker.consumer.positions.clear()
        return await stop()

    monkeypatch.setattr(worker.consumer, "poll", breaking)
    monkeypatch.setattr(worker.consumer, "stop", stopping)
    async with worker:
        await until(lambda: worker.committed == 1)
        assert list(worker.engine._parts.work.trackers) == [P0]
        monkeypatch.setattr(worker.consumer, "stop", stop)


async def test_commits_that_are_put_off_for_long_are_a_trouble(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer_module, "PUT_OFF_SECONDS", 0.1)
    worker = Worker(broker, FakeFlow())
    worker.consumer.refusal = RebalancingError("none is assigned")
    async with worker:
        trouble = worker.engine._parts.trouble
        await until(lambda: worker.engine.ready)
        await asyncio.sleep(0.04)
        assert trouble.reason == "", "a rebalance is no trouble"
        await until(lambda: trouble.message == "commits are put off: none is assigned")
        worker.consumer.refusal = None
        await until(lambda: worker.committed == 0)
        assert trouble.reason == ""


async def test_a_flow_that_cancels_itself_fails_and_is_not_forgotten(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    flow = FakeFlow()

    async def answer(request: FlowRequest) -> str:
        if len(flow.calls) == 1:
            raise asyncio.CancelledError
        return request.input

    flow.answer = answer
    async with Worker(broker, flow) as worker:
        await until(lambda: worker.committed == 1)
        assert flow.inputs == ["m0", "m0"]


class Joining:
    """What `KafkaConsumer` uses of an aiokafka consumer that waits for an answer to JoinGroup."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.closed = False
        self._client = self
        self._coordinator = SimpleNamespace(group_id="g", member_id="me", coordinator_id=7)

    async def stop(self) -> None:
        await asyncio.Event().wait()

    async def send(self, node: int, request: Any) -> None:
        self.sent.append((node, request))

    async def close(self) -> None:
        self.closed = True


async def test_a_consumer_that_is_stopped_while_it_joins_leaves_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the whole group waits for its session to end."""
    monkeypatch.setattr(kafka_module, "STOP_SECONDS", 0.01)
    consumer = Joining()
    assert not await kafka_module._stop(consumer)
    [(node, request)] = consumer.sent
    assert (node, type(request).__name__) == (7, "LeaveGroupRequest")
    assert vars(request) == vars(LeaveGroupRequest("g", "me"))
    assert consumer.closed
