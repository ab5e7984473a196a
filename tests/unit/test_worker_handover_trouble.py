"""Handing over when registers cannot be written, or whoever wrote them is dead or stands still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest

from broker_fakes import P0, P1, FakeBroker, FakeOffsets
from flowbinding_worker.handover import FENCE_SECONDS, LANES, incoming, outgoing
from flowbinding_worker.handover.entry import Item, State, decode
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.handover.registers import Registers
from flowbinding_worker.kafka.port import KafkaUnavailableError, MembershipLostError, Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from handover_bench import OTHERS, UNWRITABLE, fill_registers, hand_out, worker
from worker_fakes import FakeFlow, Gate, texts, until

pytestmark = pytest.mark.usefixtures("quick_handover")


class Still:
    """Steady seconds that can pass while nothing happens."""

    passed = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.passed

    def outgoing(self, items: Mapping[int, Item], _: object) -> Outgoing:
        return Outgoing(items, self)


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
