"""Engines on an in-memory Kafka hand running messages to each other."""

from __future__ import annotations

import asyncio

import pytest

from broker_fakes import P0, P1, FakeBroker
from flowbinding_worker.handover import LANES
from flowbinding_worker.handover.entry import decode
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position
from flowbinding_worker.ports import Failure, FlowRequest
from handover_bench import KEY, closed, fill_registers, hand_out, worker
from worker_fakes import FakeFlow, Gate, Worker, refuse, texts, until

pytestmark = pytest.mark.usefixtures("quick_handover")


async def test_what_comes_back_goes_on_and_nothing_is_asked(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1, key=KEY))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        await one.consumer.revoke()
        broker.produce(texts(2, key=KEY))
        await one.consumer.assign([P0])
        gate.events["m0"].set()
        await until(lambda: one.committed == 3)
        assert one.flow.inputs == ["m0", "m1", "m2"]
        await until(lambda: all(not decode(p.metadata).items for p in broker.registers.values()))


async def test_what_runs_is_finished_by_its_worker_and_the_rest_goes_on_at_once(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"a", b"m1"), (b"b", b"m2")])
    async with worker(broker, gate, P0) as one, worker(broker, gate) as two:
        one.flow.answer = gate
        await until(lambda: one.flow.running == 1 and len(broker.sent_to("out")) == 1)
        await hand_out([(one, []), (two, [P0])])
        broker.produce([(b"b", b"m3"), (b"a", b"m4")])
        await until(lambda: two.flow.inputs == ["m3"])
        assert two.count("held") == 1
        gate.events["m0"].set()
        await until(lambda: two.committed == 5)
        assert one.flow.inputs == ["m0", "m2"]
        assert two.flow.inputs == ["m3", "m1", "m4"]
        assert len(broker.sent_to("out")) == 5
        assert two.count('handovers_total{outcome="Finished"}') == 1
        assert one.count('handovers_total{outcome="HandedOver"}') == 1
        await until(lambda: all(decode(p.metadata).closed for p in broker.registers.values()))


async def test_what_an_earlier_owner_runs_counts_for_the_limit_over_all(broker: FakeBroker) -> None:
    texts_ = [f"m{n}" for n in range(6)]
    gate = Gate(*texts_)
    broker.produce([(text.encode(), text.encode()) for text in texts_])
    limit = {"concurrency": {"maxInFlight": 2}}
    async with worker(broker, gate, P0, spec=limit) as one, worker(broker, gate, spec=limit) as two:
        await until(lambda: one.flow.running == 2)
        await hand_out([(one, []), (two, [P0])])
        await until(lambda: two.count("held") == 2)
        await until(lambda: two.count("buffered") >= 4)
        assert two.flow.running == 0
        gate.events["m0"].set()
        await until(lambda: two.flow.running == 1)
        for event in gate.events.values():
            event.set()
        await until(lambda: two.committed == 6)
        assert one.flow.inputs == ["m0", "m1"]
        assert two.flow.most <= 2


async def test_three_owners_in_a_row_run_nothing_twice(broker: FakeBroker) -> None:
    gate = Gate("m0", "m1")
    broker.produce([(b"a", b"m0"), (b"b", b"m1")])
    one, two, three = (worker(broker, gate, *p) for p in ([P0], [], []))
    one.flow.answer = gate
    async with one, two, three:
        one.flow.answer = gate
        await until(lambda: one.flow.running == 2)
        await hand_out([(one, []), (two, [P0]), (three, [])])
        broker.produce([(b"c", b"slow")])
        slow = Gate("slow")
        two.flow.answer = slow
        await until(lambda: two.flow.running == 1)
        await hand_out([(one, []), (two, []), (three, [P0])])
        await until(lambda: three.count("held") == 3)
        slow.events["slow"].set()
        gate.events["m1"].set()
        await until(lambda: three.count("held") == 1)
        await hand_out([(one, [P0]), (two, []), (three, [])])
        gate.events["m0"].set()
        await until(lambda: one.committed == 3)
        assert one.flow.inputs == ["m0", "m1"]
        assert two.flow.inputs == ["slow"]
        assert three.flow.inputs == []


async def test_a_failed_message_runs_elsewhere_with_its_attempts(broker: FakeBroker) -> None:
    failing = asyncio.Event()

    async def answer(request: FlowRequest) -> str:
        await failing.wait()
        raise refuse(Failure.TRANSIENT, 503)

    broker.produce(texts(0))
    async with worker(broker, FakeFlow(answer), P0) as one, worker(broker, FakeFlow(answer)) as two:
        await until(lambda: one.flow.running == 1)
        await hand_out([(one, []), (two, [P0])])
        failing.set()
        await until(lambda: two.committed == 1)
        assert len(one.flow.calls) + len(two.flow.calls) == 3, "maxAttempts in all"
        assert len([p for p in broker.produced if p[0] != "out"]) == 1


async def test_what_is_learned_in_a_search_for_a_register_counts(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks again about messages that are over."""
    monkeypatch.setattr("flowbinding_worker.handover.listening.ASK_SECONDS", 3600)
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"a", b"m1")])
    made = worker(broker, gate, P0)
    fill_registers(made, range(1, LANES))
    async with made as one, worker(broker, gate) as two:
        await until(lambda: one.flow.running == 1)
        await hand_out([(one, []), (two, [P0])])
        await until(lambda: two.count("held") == 1)
        gate.events["m0"].set()
        await until(lambda: closed(broker) == 1)
        await two.consumer.revoke()
        await two.consumer.assign([P0])
        await until(lambda: two.committed == 2)
        assert (one.flow.inputs, two.flow.inputs) == (["m0"], ["m1"])


async def test_partitions_that_somebody_had_meanwhile_are_not_taken_as_they_were(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1, key=KEY))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        await one.consumer.revoke()
        broker.generation += 1
        await one.consumer.assign([P0])
        await until(lambda: one.count("held") == 1)
        gate.events["m0"].set()
        await until(lambda: one.committed == 2)
        assert one.flow.inputs == ["m0", "m1"]


async def test_offsets_that_were_set_back_are_read_again_whatever_registers_say(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"b", b"m1")])
    async with worker(broker, gate, P0) as one, worker(broker, FakeFlow()) as two:
        await until(lambda: len(broker.sent_to("out")) == 1)
        await hand_out([(one, []), (two, [P0])])
        gate.events["m0"].set()
        await until(lambda: two.committed == 2)
        assert two.flow.inputs == []
        await two.consumer.revoke()
        broker.commits[P0] = Position(0, "")
        broker.generation += 1
        await two.consumer.assign([P0])
        await until(lambda: two.committed == 2)
        assert two.flow.inputs == ["m0", "m1"]
        await until(lambda: all(not decode(p.metadata).items for p in broker.registers.values()))
        assert closed(broker) == 0, "who said it may say it again"


async def test_a_trial_that_ends_during_a_rebalance_counts(broker: FakeBroker) -> None:
    gate = Gate("m100")

    async def answer(request: FlowRequest) -> str:
        if int(request.input[1:]) < 100:
            raise refuse(Failure.POISON, 422)
        return await gate(request)

    broker.produce(texts(*range(102)))
    made = Worker(broker, FakeFlow(answer), {"concurrency": {"perReplica": 1}})
    async with made as one:
        await until(lambda: one.flow.running == 1 and len(one.flow.calls) == 101)
        await one.consumer.revoke()
        gate.events["m100"].set()
        await until(lambda: one.count("in_flight") == 0)
        await one.consumer.assign([P0])
        await until(lambda: one.committed == 102)


async def test_a_message_that_others_finish_is_no_trial(broker: FakeBroker) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"a", b"m1")])

    async def answer(request: FlowRequest) -> str:
        if request.input != "m1":
            raise refuse(Failure.POISON, 422)
        return request.input

    async with worker(broker, gate, P0) as one, worker(broker, FakeFlow(answer)) as two:
        await until(lambda: one.flow.running == 1)
        await hand_out([(one, []), (two, [P0])])
        broker.produce(texts(*range(2, 102)))
        await until(lambda: two.engine._parts.trouble.reason == "DeadLetterFlood")
        gate.events["m0"].set()
        await until(lambda: two.committed == 102)
        assert two.flow.inputs[-1] == "m1"


async def test_what_comes_back_begins_with_its_new_share(broker: FakeBroker) -> None:
    gate = Gate("m0", "m1", "m2", "m3")
    broker.produce(texts(0, 1, 2, 3))
    made = Worker(broker, FakeFlow(gate), {"concurrency": {"perReplica": 2, "maxInFlight": 2}})
    made.consumer.on_start, made.consumer.count = [P0, P1], 2
    async with made as one:
        await until(lambda: one.flow.running == 2)
        await one.consumer.revoke()
        gate.events["m0"].set()
        gate.events["m1"].set()
        await until(lambda: one.count("in_flight") == 0)
        await one.consumer.assign([P0])
        assert one.count("in_flight") == 1


async def test_what_runs_and_was_told_to_nobody_ends_with_its_partition(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        await one.consumer.revoke()

        def stopping(*_: object) -> None:
            raise KafkaUnavailableError("not a member")

        with monkeypatch.context() as patch:
            patch.setattr(one.consumer, "seek", stopping)
            with pytest.raises(KafkaUnavailableError):
                await one.consumer.assign([P0])
        broker.generation += 1
        await one.consumer.assign([])
        await until(lambda: one.flow.running == 0)
        gate.events["m0"].set()
        await until(lambda: one.count("in_flight") == 0)
        assert broker.produced == []
