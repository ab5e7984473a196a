"""Engines on an in-memory Kafka hand running messages to each other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from flowbinding_worker.handover import FENCE_SECONDS, LANES, incoming, outgoing
from flowbinding_worker.handover.entry import Item, State, decode, encode
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.handover.registers import Registers, register_group
from flowbinding_worker.kafka.port import KafkaUnavailableError, MembershipLostError, Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Failure, FlowRequest, Partition
from worker_fakes import (
    P0,
    P1,
    FakeBroker,
    FakeFlow,
    FakeOffsets,
    Gate,
    Worker,
    refuse,
    texts,
    until,
)

KEY = b"k"
OTHERS = 4711
"""Number of a worker that is not there."""
UNWRITABLE = KafkaUnavailableError("not authorized", retriable=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbinding_worker.handover.rebalance.TELL_SECONDS", 0.01)
    monkeypatch.setattr("flowbinding_worker.handover.listening.ASK_SECONDS", 0.01)
    monkeypatch.setattr("flowbinding_worker.handover.rebalance.AGAIN_SECONDS", 0.05)


def worker(
    broker: FakeBroker,
    gate: Gate | FakeFlow,
    *partitions: Partition,
    spec: dict[str, Any] | None = None,
) -> Worker:
    """One that gets `partitions` when it starts."""
    made = Worker(broker, gate if isinstance(gate, FakeFlow) else FakeFlow(gate), spec)
    made.consumer.on_start = partitions
    return made


class Still:
    """Steady seconds that can pass while nothing happens."""

    passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed

    def outgoing(self, items: Mapping[int, Item], _: object) -> Outgoing:
        return Outgoing(items, self)


def fill_registers(made: Worker, lanes: Iterable[int]) -> None:
    """Put into registers of P0 what others have left there, over and not closed."""
    for lane in lanes:
        group = register_group(made.binding.consumer_group, lane)
        made.broker.registers[group, P0] = Position(0, encode(OTHERS, 9, {}) or "")


def closed(broker: FakeBroker) -> int:
    return sum(decode(p.metadata).closed for p in broker.registers.values())


async def hand_out(workers: Sequence[tuple[Worker, list[Partition]]]) -> None:
    """A rebalance of the whole group."""
    await asyncio.gather(*(w.consumer.revoke() for w, _ in workers))
    workers[0][0].broker.generation += 1
    await asyncio.gather(*(w.consumer.assign_again(partitions) for w, partitions in workers))


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


async def test_a_worker_that_dies_is_replaced_after_its_lease(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "LEASE_SECONDS", 0.3)
    broker.produce(texts(0))
    async with worker(broker, Gate("m0"), P0) as one, worker(broker, FakeFlow()) as two:
        await until(lambda: one.flow.running == 1)
        await hand_out([(one, []), (two, [P0])])
        await until(lambda: two.count("held") == 1)
        await one.die()
        await until(lambda: two.committed == 1)
        assert two.flow.inputs == ["m0"]
        assert two.count('handovers_total{outcome="TakenOver"}') == 1


async def test_a_worker_that_cannot_say_that_it_lives_writes_nothing(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "FENCE_SECONDS", 0.3)
    monkeypatch.setattr(outgoing, "BEAT_SECONDS", 0.05)
    gate = Gate("m0")
    broker.produce(texts(0))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        await one.consumer.revoke()
        one.offsets.refusal = UNWRITABLE
        await one.consumer.assign([])
        await until(lambda: one.flow.running == 0)
        gate.events["m0"].set()
        await until(lambda: one.count("in_flight") == 0)
        assert broker.produced == []
        assert one.count('handovers_total{outcome="Fenced"}') == 1


async def test_the_word_that_closes_a_register_is_never_repeated(broker: FakeBroker) -> None:
    """Its answer is lost; by the next time somebody else may write there."""
    offsets, word = FakeOffsets(broker), Outgoing({0: Item(1, State.RUNNING)}, time.monotonic)
    registers = Registers("g", offsets, Metrics())
    registers.open(P0, 0, word)
    await registers.flush()
    [register] = broker.registers.values()
    assert not decode(register.metadata).closed
    word.done(0)
    write = offsets.write

    async def answer_is_lost(group: str, positions: Mapping[Partition, Position]) -> None:
        await write(group, positions)
        if decode(positions[P0].metadata).closed:
            raise KafkaUnavailableError("no answer")

    offsets.write = answer_is_lost  # type: ignore[method-assign]
    await registers.flush()
    [register] = broker.registers.values()
    assert decode(register.metadata).closed
    assert not registers.speaking
    offsets.writes = 0
    await registers.flush()
    assert offsets.writes == 0


async def test_registers_that_were_never_closed_are_free_after_the_lease(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that were killed leave them, and those of before the word was known."""
    monkeypatch.setattr(incoming, "LEASE_SECONDS", 0.3)
    gate = Gate("m0")
    broker.produce(texts(0))
    made = worker(broker, gate, P0)
    fill_registers(made, range(LANES))
    async with made as one:
        await until(lambda: one.flow.running == 1)
        await one.consumer.revoke()
        entries = [decode(p.metadata) for p in broker.registers.values()]
        [written] = [entry for entry in entries if entry.instance != OTHERS]
        assert written.items[0].state is State.RUNNING
        await one.consumer.assign([P0])


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


async def test_an_owner_that_dies_before_its_first_commit_leaves_all_to_the_next(
    broker: FakeBroker,
) -> None:
    gate = Gate("m0")
    broker.produce([(b"a", b"m0"), (b"b", b"m1")])
    async with worker(broker, gate, P0) as one, worker(broker, Gate("m2")) as two:
        await until(lambda: one.flow.running == 1 and broker.sent_to("out") == [b"m1"])
        await hand_out([(one, []), (two, [P0])])
        broker.produce([(b"c", b"m2"), (b"a", b"m3")])
        await until(lambda: two.flow.running == 1)
        before = broker.commits[P0]
        await two.die()
        assert broker.commits[P0] == before
        broker.generation += 1
        async with worker(broker, FakeFlow(), P0) as three:
            await until(lambda: three.flow.inputs == ["m2"])
            gate.events["m0"].set()
            await until(lambda: three.committed == 4)
            assert three.flow.inputs == ["m2", "m3"]
            assert set(broker.sent_to("out")) == {b"m0", b"m1", b"m2", b"m3"}
            assert len(broker.sent_to("out")) == 4


async def test_a_worker_that_stands_still_for_longer_than_its_lease_writes_nothing_afterwards(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after SIGSTOP and SIGCONT: neither its result, nor over what others wrote since."""
    clock = Still()
    monkeypatch.setattr(outgoing, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr("flowbinding_worker.handover.rebalance.Outgoing", clock.outgoing)
    gate = Gate("m0")
    broker.produce(texts(0))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        await one.consumer.revoke()
        await one.consumer.assign([])
        clock.passed += FENCE_SECONDS
        gate.events["m0"].set()
        broker.registers = {key: Position(0, "of others") for key in broker.registers}
        await until(lambda: one.count("in_flight") == 0)
        registers = one.engine._parts.rebalances._registers
        assert registers is not None
        await until(lambda: not registers.speaking)
        assert broker.produced == []
        assert [p.metadata for p in broker.registers.values()] == ["of others"]


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


@pytest.mark.parametrize("what", ["refusal", "hang"])
async def test_what_cannot_be_handed_over_is_waited_for(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("flowbinding_worker.handover.registers.WRITE_SECONDS", 0.05)
    monkeypatch.setattr("flowbinding_worker.handover.registers.READ_SECONDS", 0.05)
    gate = Gate("m0")
    broker.produce(texts(0))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        setattr(one.offsets, what, UNWRITABLE if what == "refusal" else True)
        revoking = asyncio.create_task(one.consumer.revoke())
        await until(lambda: one.count('handovers_total{outcome="Waited"}') == 1)
        assert not revoking.done()
        gate.events["m0"].set()
        await revoking
        assert one.committed == 1


async def test_a_wait_ends_when_handing_over_works_again(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    async with worker(broker, Gate("m0"), P0) as one:
        await until(lambda: one.flow.running == 1)
        one.offsets.refusal = UNWRITABLE
        revoking = asyncio.create_task(one.consumer.revoke())
        await until(lambda: one.count('handovers_total{outcome="Waited"}') == 1)
        one.offsets.refusal = None
        await revoking
        [register] = broker.registers.values()
        assert decode(register.metadata).items[0].state is State.RUNNING
        await one.consumer.assign([P0])


async def test_foreign_registers_are_ignored_and_counted(broker: FakeBroker) -> None:
    broker.produce(texts(0))
    async with worker(broker, FakeFlow(), P1) as one:
        await until(lambda: one.engine.ready)
        group = f"{one.binding.consumer_group}.handoff"
        broker.registers[group, P0] = Position(0, "mine")
        broker.registers[f"{group}-2", P0] = Position(0, "FBH????")
        await one.consumer.revoke()
        await one.consumer.assign([P0])
        await until(lambda: one.committed == 1)
        assert one.count("metadata_ignored_total") == 2


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


async def test_a_membership_lost_while_handing_over_leaves_nobody_waiting(
    broker: FakeBroker,
) -> None:
    broker.produce(texts(0))
    async with worker(broker, Gate("m0"), P0) as one:
        await until(lambda: one.flow.running == 1)
        one.consumer.refusal = MembershipLostError("gone on without us")
        await one.consumer.revoke()
        one.consumer.refusal, one.flow.answer = None, None
        await one.consumer.assign([P0])
        await until(lambda: one.committed == 1)
        assert one.flow.inputs == ["m0", "m0"]


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


async def test_what_can_never_be_told_is_not_tried_for_ever(
    broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "FENCE_SECONDS", 0.1)
    gate = Gate("m0")
    broker.produce(texts(0))
    async with worker(broker, gate, P0) as one:
        await until(lambda: one.flow.running == 1)
        one.offsets.refusal = UNWRITABLE
        revoking = asyncio.create_task(one.consumer.revoke())
        await until(lambda: one.count('handovers_total{outcome="Waited"}') == 1)
        registers = one.engine._parts.rebalances._registers
        assert registers is not None
        assert registers.speaking
        gate.events["m0"].set()
        await revoking
        await until(lambda: not registers.speaking)


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
