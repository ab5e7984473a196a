"""The engine with exactly-once output, on an in-memory Kafka: commits, rebalances, trouble."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from broker_fakes import P0, P1, FakeBroker, FakeConsumer, FakeOffsets, FakeProducer
from flowbinding_api.offsets import decode
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import StartFrom
from flowbinding_worker import committer
from flowbinding_worker.assembly import compose
from flowbinding_worker.engine import Stop
from flowbinding_worker.kafka.consumer import ConsumerSettings
from flowbinding_worker.kafka.port import ConsumerBrokenError, KafkaUnavailableError
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import Failure, Partition
from flowbinding_worker.transactions import lane as transactions_lane
from flowbinding_worker.transactions.exactly_once import Transactions
from flowbinding_worker.transactions.group import FencedConsumer
from flowbinding_worker.transactions.port import TopicRefusedError
from transaction_fakes import FakeCoordinator, FakePort, Fault
from worker_fakes import FakeFlow, Gate, binding, refuse, stopped, texts, until


class Exact:
    """An engine with transactions, run as a task. Several may share a broker."""

    def __init__(
        self,
        broker: FakeBroker,
        kafka: Mapping[Partition, FakeCoordinator],
        flow: FakeFlow,
        partitions: Collection[Partition] = (P0,),
        name: str = "worker-0",
    ) -> None:
        self.kafka = kafka
        self.ports: dict[Partition, FakePort] = {}
        self.binding = binding()
        self.consumer = FakeConsumer(broker)
        self.consumer.on_start = partitions
        self.transactions = Transactions(self._port)
        self.metrics = Metrics()
        self.stop: Stop
        self.flow = flow
        self.engine, self.stop = compose(
            self.binding,
            name,
            self.metrics,
            flow=flow,
            payload=Payload(self.binding),
            consumer=self.consumer,
            producer=FakeProducer(broker),
            offsets=FakeOffsets(broker),
            transactions=self.transactions,
        )

    async def __aenter__(self) -> Exact:
        self.task = asyncio.create_task(self.engine.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await stopped(self.stop, self.task)

    def _port(self, partition: Partition) -> FakePort:
        self.ports[partition] = FakePort(self.kafka[partition])
        return self.ports[partition]


@pytest.fixture
def kafka() -> Mapping[Partition, FakeCoordinator]:
    return defaultdict(FakeCoordinator)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowbinding_worker.transactions.exactly_once.INTERVAL_SECONDS", 0.005)
    monkeypatch.setattr(transactions_lane, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(transactions_lane, "HOLD_SECONDS", 0.05)
    monkeypatch.setattr(committer, "INTERVAL_SECONDS", 0.01)


def offset(kafka: Mapping[Partition, FakeCoordinator], partition: Partition = P0) -> int:
    position = kafka[partition].position
    return -1 if position is None else position.offset


async def test_results_and_offsets_go_through_transactions_only(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    broker.produce(texts(*range(30)))
    async with Exact(broker, kafka, FakeFlow()) as worker:
        await until(lambda: offset(kafka) == 30)
        assert worker.task.done() is False
    assert sorted(map(str, kafka[P0].values)) == sorted(f"b'm{n}'" for n in range(30))
    assert broker.history == []
    assert broker.produced == []


async def test_a_next_owner_begins_where_the_transactions_ended(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    broker.produce(texts(*range(6)))
    async with Exact(broker, kafka, FakeFlow(Gate("m1", "m4"))):
        await until(lambda: len(kafka[P0].values) == 4)
    async with Exact(broker, kafka, FakeFlow()) as second:
        await until(lambda: offset(kafka) == 6)
        assert sorted(second.flow.inputs) == ["m1", "m4"]
        assert second.consumer.sought == {P0: 1}
    assert len(kafka[P0].values) == 6


async def test_a_rebalance_waits_and_what_comes_back_is_kept(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    broker.produce(texts(1), 1)
    async with Exact(broker, kafka, FakeFlow(gate), [P0, P1]) as worker:
        await until(lambda: offset(kafka, P1) == 1 and worker.flow.running == 1)
        ports = dict(worker.ports)
        revoking = asyncio.create_task(worker.consumer.revoke())
        await asyncio.sleep(0)
        gate.events["m0"].set()
        await revoking
        assert kafka[P0].values == [b"m0"], "written before the partition goes"
        assert offset(kafka, P0) == 1
        await worker.consumer.assign([P1])
        assert worker.ports[P1] is ports[P1], "nobody else had it"
        assert ports[P0].closed
        broker.produce(texts(2), 1)
        await until(lambda: offset(kafka, P1) == 2)


async def test_without_its_transactional_id_a_partition_is_not_begun(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    broker.produce(texts(0))
    async with Exact(broker, kafka, FakeFlow(), []) as worker:
        await until(lambda: worker.consumer.listener is not None)
        make = worker._port

        def refuse_once(partition: Partition) -> FakePort:
            port = make(partition)
            port.open_faults.append(Fault.LOST)
            return port

        worker.transactions._make_port = refuse_once
        with pytest.raises(KafkaUnavailableError):
            await worker.consumer.assign([P0])
        assert worker.flow.inputs == []
        worker.transactions._make_port = make
        await worker.consumer.assign([P0])
        await until(lambda: offset(kafka) == 1)


async def test_a_worker_that_others_went_on_without_joins_anew(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0))
    async with Exact(broker, kafka, FakeFlow(gate)) as old:
        await until(lambda: old.flow.running == 1)
        async with Exact(broker, kafka, FakeFlow(), name="worker-1"):
            await until(lambda: offset(kafka) == 1)
        gate.events["m0"].set()
        await until(lambda: old.transactions.outdated is not None)
        assert kafka[P0].values == [b"m0"]
        settings = ConsumerSettings((), "g", StartFrom.EARLIEST, 1, "c")
        consumer = FencedConsumer(old.transactions, settings, dict)
        with pytest.raises(ConsumerBrokenError, match="another worker"):
            await consumer.poll({}, 0)


async def test_a_topic_that_takes_nothing_is_told(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    known = kafka[P0]
    letters = binding().dead_letter_topic("in") or ""
    known.refused[letters] = TopicRefusedError(letters, "no", Reason.TOPIC_MISSING)

    async def answer(request: Any) -> str:
        if request.input == "m0":
            raise refuse(Failure.POISON)
        return str(request.input)

    broker.produce(texts(0, 1))
    async with Exact(broker, kafka, FakeFlow(answer)):
        await until(lambda: reason(known) == Reason.OUTPUT_UNAVAILABLE)
        assert known.values == [b"m1"]
        assert offset(kafka) == 0
        known.refused.clear()
        await until(lambda: offset(kafka) == 2 and reason(known) == "")
    assert known.values == [b"m1", b"m0"]


async def test_results_are_written_before_a_worker_ends(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator]
) -> None:
    gate = Gate("m0")
    broker.produce(texts(0, 1))
    worker = Exact(broker, kafka, FakeFlow(gate))
    async with worker:
        await until(lambda: worker.flow.running == 1 and len(kafka[P0].values) == 1)
        worker.stop.ask()
        gate.events["m0"].set()
        await asyncio.wait_for(asyncio.shield(worker.task), 10)
    assert sorted(map(str, kafka[P0].values)) == ["b'm0'", "b'm1'"]
    assert offset(kafka) == 2
    assert all(port.closed for port in worker.ports.values())


def reason(known: FakeCoordinator) -> str:
    """What keeps the worker from working, as the operator reads it."""
    if known.position is None:
        return ""
    figures = decode(*known.position).figures
    return figures.reason if figures else ""


async def test_a_fault_in_a_transaction_does_not_go_unseen(
    broker: FakeBroker, kafka: Mapping[Partition, FakeCoordinator], monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [ZeroDivisionError()]
    commit = FakePort.commit

    async def faulty(self: FakePort, *given: Any) -> None:
        if faults:
            raise faults.pop()
        await commit(self, *given)

    async with Exact(broker, kafka, FakeFlow()) as worker:
        await until(lambda: worker.engine.ready)
        monkeypatch.setattr(FakePort, "commit", faulty)
        broker.produce(texts(0))
        await until(lambda: worker.transactions.outdated is not None)
        assert "unexpected ZeroDivisionError" in str(worker.transactions.outdated)
