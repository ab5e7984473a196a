"""The engine on an in-memory Kafka: commits and rebalances."""

from __future__ import annotations

import asyncio
from collections import defaultdict

import pytest
import structlog

from broker_fakes import P0, P1, FakeBroker
from flowbinding_api.offsets import decode
from flowbinding_worker import committer as committer_module
from flowbinding_worker.kafka.port import (
    KafkaUnavailableError,
    MembershipLostError,
    Position,
    RebalancingError,
)
from flowbinding_worker.ports import FlowRequest, Record
from worker_fakes import FakeFlow, Gate, Worker, figures, texts, until


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


async def test_commits_that_are_put_off_for_long_are_a_trouble(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(broker, FakeFlow())
    worker.consumer.refusal = RebalancingError("none is assigned")
    with structlog.testing.capture_logs() as logs:
        async with worker:
            trouble = worker.engine._parts.trouble
            await until(lambda: [entry["event"] for entry in logs].count("commit put off") > 2)
            assert trouble.reason == "", "a rebalance is no trouble"
            monkeypatch.setattr(committer_module, "PUT_OFF_SECONDS", 0.0)
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
