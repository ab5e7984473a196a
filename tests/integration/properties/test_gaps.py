"""Offsets that no message has: compaction, aborted transactions, deleted records."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete

from integration.flow_server import FlowServer
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import TopicFactory, admin, commit, produce, read_all, reader
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def transactional(bootstrap: str, name: str) -> AsyncIterator[Any]:
    """A producer with transactions."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=name)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


async def send(producer: Any, topic: str, values: list[str], *, keep: bool) -> None:
    """One transaction, committed or aborted."""
    await producer.begin_transaction()
    for value in values:
        await producer.send_and_wait(topic, value.encode(), partition=0)
    await (producer.commit_transaction() if keep else producer.abort_transaction())


async def end(bootstrap: str, topic: str) -> int:
    async with reader(bootstrap, topic) as consumer:
        [offset] = (await consumer.end_offsets(list(consumer.assignment()))).values()
        return int(offset)


async def test_aborted_messages_are_not_called_and_the_lag_reaches_zero(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    async with transactional(kafka.bootstrap, source) as producer:
        for turn in range(5):
            await send(producer, source, [f"kept-{turn}-{n}" for n in range(20)], keep=True)
            await send(producer, source, [f"aborted-{turn}-{n}" for n in range(20)], keep=False)
        kept = {f"kept-{turn}-{n}" for turn in range(5) for n in range(20)}
        async with WorkerProcess(tmp_path, document) as worker:
            await worker.works_off(source)
            assert set(flow.inputs) == kept
            # Markers and aborted messages have offsets: 5 x (20 + 1 + 20 + 1).
            assert await worker.committed() == await end(kafka.bootstrap, source) == 210
            assert await worker.metric("consumer_lag") == 0
            # One that is open holds back what follows, until its end is known.
            await producer.begin_transaction()
            await producer.send_and_wait(source, b"open", partition=0)
            await produce(kafka.bootstrap, source, [(None, b"behind")])
            await producer.abort_transaction()
            await worker.works_off(source)
            assert await worker.terminate() == 0
    assert sorted(flow.inputs) == sorted([*kept, "behind"])


async def test_a_compacted_topic_with_gaps(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    compacting = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "max.compaction.lag.ms": "100",
    }
    source = await topic(1, **compacting)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})

    async def compacted() -> bool:
        # Each append may begin a new segment, and only those before it are compacted.
        await produce(kafka.bootstrap, source, [(b"last", b"last")])
        return len(await read_all(kafka.bootstrap, source)) < 100

    rounds = [[(f"k{n}".encode(), f"{turn}-{n}".encode()) for n in range(50)] for turn in range(6)]
    for messages in rounds:
        await produce(kafka.bootstrap, source, messages)
    await until(compacted)
    left = [r.value.decode() for r in await read_all(kafka.bootstrap, source)]
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        assert await worker.committed() == await end(kafka.bootstrap, source) > 300
        assert await worker.terminate() == 0
    # What was superseded meanwhile may be gone.
    assert {f"5-{n}" for n in range(50)} <= set(flow.inputs) <= set(left)


async def test_records_that_retention_deletes_are_passed_over(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    group = document["spec"]["source"]["consumerGroup"]
    tp = TopicPartition(source, 0)
    await produce(kafka.bootstrap, source, [(None, f"m{n}".encode()) for n in range(100)])
    await commit(kafka.bootstrap, group, {tp: 10})
    async with admin(kafka.bootstrap) as client:
        await client.delete_records({tp: RecordsToDelete(before_offset=60)})
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        assert await worker.terminate() == 0
    assert sorted(flow.inputs) == sorted(f"m{n}" for n in range(60, 100))
