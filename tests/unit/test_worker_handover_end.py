"""Workers that end, on an in-memory Kafka: what they hand over, give back and wait for."""

from __future__ import annotations

import asyncio

import pytest

from broker_fakes import P0, FakeBroker
from flowbinding_worker.kafka.port import Position
from handover_bench import UNWRITABLE, worker
from worker_fakes import FakeFlow, Gate, texts, until

pytestmark = pytest.mark.usefixtures("quick_handover")


async def test_a_worker_that_ends_leaves_at_once_and_finishes_its_calls(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"a", b"m1")])
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        one.stop.ask()
        await until(lambda: one.consumer.stopped)
        assert one.flow.running == 1
        async with worker(broker, gate, P0) as two:
            await until(lambda: two.count("held") == 1)
            gate.events["m0"].set()
            await asyncio.wait_for(asyncio.shield(one.task), 10)
            await until(lambda: two.committed == 2)
            assert two.flow.inputs == ["m1"]


async def test_a_hurried_end_gives_back_what_runs_at_once(broker: FakeBroker) -> None:
    broker.produce([(b"a", b"m0")])
    async with worker(broker, Gate("m0"), P0) as one:
        await until(lambda: one.flow.running == 1)
        one.stop.ask()
        await until(lambda: one.consumer.stopped)
        async with worker(broker, FakeFlow(), P0) as two:
            await until(lambda: two.count("held") == 1)
            await one.end()
            await until(lambda: two.committed == 1)
            assert two.flow.inputs == ["m0"]
            assert broker.sent_to("out") == [b"m0"]


async def test_the_last_worker_to_end_leaves_no_lag(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"b", b"m1")])
    async with worker(broker, gate, P0) as one:
        await until(lambda: len(broker.sent_to("out")) == 1)
        one.stop.ask()
        await until(lambda: one.consumer.stopped)
        gate.events["m0"].set()
        await asyncio.wait_for(asyncio.shield(one.task), 10)
        assert one.committed == 2


async def test_the_last_word_of_a_worker_replaces_nobodys_commit(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"b", b"m1")])
    async with worker(broker, gate, P0) as one:
        await until(lambda: P0 in broker.commits and one.count("in_flight") == 1)
        one.stop.ask()
        await until(lambda: one.consumer.stopped)
        # Offsets that somebody has set back while the group had no members.
        broker.commits[P0] = Position(0, "")
        gate.events["m0"].set()
        await asyncio.wait_for(asyncio.shield(one.task), 10)
        assert broker.commits[P0] == Position(0, "")


async def test_an_end_without_registers_stays_a_member_until_its_calls_are_over(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    made = worker(broker, gate, P0)
    made.offsets.refusal = UNWRITABLE
    async with made as one:
        await until(lambda: one.flow.running == 1)
        one.stop.ask()
        await until(lambda: not one.engine.ready)
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not one.consumer.stopped
        gate.events["m0"].set()
        await asyncio.wait_for(asyncio.shield(one.task), 10)
        assert one.committed == 1


async def test_an_end_does_not_wait_longer_than_its_time_for_a_rebalance(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbinding_worker.assembly.grace_seconds", lambda _: 0.1)
    broker.produce(texts(0))
    async with worker(broker, Gate("m0"), P0) as one:
        await until(lambda: one.flow.running == 1)
        one.offsets.refusal = UNWRITABLE
        revoking = asyncio.create_task(one.consumer.revoke())
        await until(lambda: one.count('handovers_total{outcome="Waited"}') == 1)
        one.stop.ask()
        await asyncio.wait_for(asyncio.shield(one.task), 5)
        await revoking
        assert broker.produced == []
