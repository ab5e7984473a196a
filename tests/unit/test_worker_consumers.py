"""A worker whose Kafka consumer breaks, gets stuck or cannot be stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.protocol.group import LeaveGroupRequest

from broker_fakes import P0, P1, FakeBroker
from flowbinding_worker import engine as engine_module
from flowbinding_worker.kafka import consumer as kafka_module
from flowbinding_worker.kafka.port import (
    ConsumerBrokenError,
    KafkaUnavailableError,
    RecordUnreadableError,
)
from flowbinding_worker.ports import Partition
from worker_fakes import FakeFlow, Worker, figures, texts, until


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
