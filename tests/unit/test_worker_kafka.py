"""The consumer on aiokafka's own fetcher and records, without a broker."""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Collection, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.consumer.subscription_state import TopicPartitionState
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import OffsetAndMetadata

from flowbinding_api.spec import StartFrom
from flowbinding_worker.kafka.consumer import ConsumerSettings, KafkaConsumer
from flowbinding_worker.kafka.listener import Listener
from flowbinding_worker.kafka.port import (
    KafkaUnavailableError,
    Position,
    RebalancingError,
    RecordUnreadableError,
)
from flowbinding_worker.kafka.producer import KafkaProducer, _Connection, partition_for
from flowbinding_worker.ports import Partition

A, B, C = (TopicPartition("in", n) for n in range(3))
OTHER = TopicPartition("other", 0)


class Ignoring:
    """Takes notice of nothing."""

    async def revoked(
        self, partitions: Collection[Partition], *, lost: bool, generation: int
    ) -> None:
        pass

    async def assigned(self, partitions: Collection[Partition], *, generation: int) -> None:
        pass


class Broker:
    """What the group has committed, and the partitions' first and end offsets."""

    def __init__(self) -> None:
        self.commits: dict[TopicPartition, OffsetAndMetadata] = {}
        self.begins = dict.fromkeys((A, B, C, OTHER), 3)
        self.ends = dict.fromkeys((A, B, C, OTHER), 9)


class FakeAioKafka(Fetcher):  # type: ignore[misc]
    """An AIOKafkaConsumer with aiokafka's own fetcher; records come from `logs`."""

    def __init__(self, broker: Broker, *assigned: TopicPartition) -> None:
        self._records: OrderedDict[TopicPartition, FetchResult] = OrderedDict()
        self._closed = False
        self._wait_consume_future = None
        self._fetch_waiters: set[Any] = set()
        self._loop = asyncio.get_running_loop()
        self._subscriptions = SimpleNamespace(
            reassignment_in_progress=False, is_assigned=lambda _: True
        )
        self.broker = broker
        self.states: dict[TopicPartition, TopicPartitionState] = {}
        self._current = SimpleNamespace(active=True, state_value=self.states.get)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=self._current))
        self._coordinator = self
        self.generation = 1
        self.logs: dict[TopicPartition, bytes] = {}
        for tp in assigned:
            self.states[tp] = TopicPartitionState(self._current)

    # Of the consumer.

    def assignment(self) -> set[TopicPartition]:
        return set(self.states)

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {tp.partition for tp in self.broker.ends if tp.topic == topic}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.states[tp].seek(offset)
        self._records.pop(tp, None)

    async def end_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.broker.ends[tp] for tp in tps}

    async def beginning_offsets(self, tps: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self.broker.begins[tp] for tp in tps}

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        if not offsets.keys() <= self.states.keys():
            raise IllegalStateError("not assigned")
        self.broker.commits |= {tp: OffsetAndMetadata(*o) for tp, o in offsets.items()}

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> Any:
        for tp in tps:
            if tp not in self._records and tp in self.logs:
                records = PartitionRecords(
                    tp,
                    MemoryRecords(self.logs[tp]),
                    [],
                    self.states[tp].position,
                    None,
                    None,
                    False,
                    READ_COMMITTED,
                )
                self._records[tp] = FetchResult(
                    tp, assignment=self._current, partition_records=records, backoff=0
                )
        return await self.fetched_records(tps, timeout_ms / 1000, max_records)

    # Of the coordinator.

    def check_errors(self) -> None:
        pass

    async def fetch_committed_offsets(self, tps: Collection[TopicPartition]) -> Any:
        return {tp: self.broker.commits[tp] for tp in tps if tp in self.broker.commits}

    async def commit_offsets(self, assignment: Any, offsets: Any) -> None:
        self.broker.commits |= offsets


def log_of(count: int, bad: int | None = None) -> bytes:
    """A batch of records with a header; the name of that of record `bad` is no UTF-8."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 20)
    for n in range(count):
        name = "!bad!" if n == bad else "fine"
        builder.append(n, 0, None, b"%d" % n, [(name, b"x")])
    return bytes(builder.build()).replace(b"!bad!", b"\xff\xfe\xfd\xfc\xfb")


def consumer_of(fake: FakeAioKafka) -> KafkaConsumer:
    """A consumer that has joined."""
    settings = ConsumerSettings(("in",), "g", StartFrom.EARLIEST, 1.0, "c")
    consumer = KafkaConsumer(settings, dict)
    consumer._consumer = fake
    consumer._listener = Listener(Ignoring(), fake, latest=False)
    consumer._listener.settled = True
    return consumer


def committed(broker: Broker) -> dict[TopicPartition, int]:
    return {tp: position.offset for tp, position in broker.commits.items()}


async def begin(broker: Broker, *assigned: TopicPartition) -> dict[TopicPartition, int]:
    """Positions that an assignment with startFrom Latest leads to; -1: left to aiokafka."""
    fake = FakeAioKafka(broker, *assigned)
    await Listener(Ignoring(), fake, latest=True).on_partitions_assigned(set(assigned))
    return {tp: s.position if s.has_valid_position else -1 for tp, s in fake.states.items()}


async def test_latest_begins_a_topic_without_commits_at_its_end() -> None:
    broker = Broker()
    assert await begin(broker, A, B) == {A: 9, B: 9}
    assert committed(broker) == {A: 9, B: 9, C: 9}, "at once, for a worker that dies now"


async def test_latest_begins_an_added_partition_at_its_beginning() -> None:
    broker = Broker()
    broker.commits[A] = OffsetAndMetadata(5, "")
    assert await begin(broker, A, C, OTHER) == {A: -1, C: 3, OTHER: 9}
    assert committed(broker) == {A: 5, C: 3, OTHER: 9}
    # What comes in between is not lost to a second assignment.
    broker.ends[C] = 20
    assert await begin(broker, C) == {C: -1}


async def test_latest_is_the_same_for_members_that_join_together() -> None:
    """The second finds the first's commits, and must not take its own partition for an added."""
    broker = Broker()
    assert await begin(broker, A) == {A: 9}
    broker.ends[B] = 12
    assert await begin(broker, B) == {B: -1}
    assert committed(broker)[B] == 9


async def collect(
    consumer: KafkaConsumer, wanted: dict[Partition, int], polls: int
) -> tuple[dict[Partition, list[int]], list[RecordUnreadableError]]:
    """Offsets read, and records that cannot be, as the engine would see them."""
    read: dict[Partition, list[int]] = {Partition(*A): [], Partition(*B): []}
    errors = []
    for _ in range(polls):
        try:
            batches = await consumer.poll(wanted, 0.001)
        except RecordUnreadableError as error:
            errors.append(error)
            wanted.pop(error.partition)
            continue
        for batch in batches:
            read[batch.partition] += [record.offset for record in batch.records]
    return read, errors


@pytest.mark.parametrize("bad", [0, 1, 4, 9])
@pytest.mark.parametrize("most", [1, 3, 100])
async def test_a_record_that_cannot_be_read_stops_its_partition_only(bad: int, most: int) -> None:
    fake = FakeAioKafka(Broker(), A, B)
    for tp, log in ((A, log_of(30)), (B, log_of(10, bad))):
        fake.states[tp].seek(0)
        fake.logs[tp] = log
    read, errors = await collect(
        consumer_of(fake), {Partition(*A): most, Partition(*B): most}, polls=120
    )
    assert read == {Partition(*A): list(range(30)), Partition(*B): list(range(bad))}
    assert [(e.partition, e.position) for e in errors] == [(Partition(*B), bad)]
    assert str(errors[0]).startswith(f"in-1: the record at or next after offset {bad} cannot")
    assert errors[0].reason == "RecordUnreadable"


async def test_partitions_without_a_position_are_not_asked_for() -> None:
    fake = FakeAioKafka(Broker(), A)
    assert await consumer_of(fake).poll({Partition(*A): 5}, 0.001) == []


async def test_a_commit_leaves_out_what_is_not_assigned() -> None:
    broker = Broker()
    consumer = consumer_of(FakeAioKafka(broker, A))
    await consumer.commit({Partition(*A): Position(4, "x"), Partition(*B): Position(5, "y")})
    assert committed(broker) == {A: 4}
    with pytest.raises(RebalancingError):
        await consumer.commit({Partition(*B): Position(5, "y")})


async def test_a_consumer_that_was_stopped_says_so() -> None:
    consumer = consumer_of(FakeAioKafka(Broker(), A))
    consumer._consumer = None
    with pytest.raises(RebalancingError):
        await consumer.commit({Partition(*A): Position(4, "x")})
    with pytest.raises(KafkaUnavailableError):
        await consumer.committed([Partition(*A)])
    with pytest.raises(KafkaUnavailableError):
        await consumer.ends([Partition(*A)])


async def test_a_partition_without_a_position_yet_does_not_wait_for_the_others() -> None:
    fake = FakeAioKafka(Broker(), A, B)
    fake.seek(A, 3)
    consumer = consumer_of(fake)
    async with asyncio.timeout(5):
        batches = await consumer.poll(dict.fromkeys((Partition(*A), Partition(*B)), 9), 3600)
    assert [batch.partition for batch in batches] == [Partition(*A)]


async def test_a_producer_closed_in_a_hurry_leaves_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hanging(_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("flowbinding_worker.kafka.producer.close", hanging)
    producer = KafkaProducer(dict, "c")
    producer._connection = connection = _Connection(None)
    early = asyncio.create_task(connection.outlasting(asyncio.Future()))
    closing = asyncio.create_task(producer.stop())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    for waiting in (early, connection.outlasting(asyncio.Future())):
        with pytest.raises(KafkaError):
            await asyncio.wait_for(waiting, 5)


@pytest.mark.parametrize("length", [0, 1, 36, 100_000])
async def test_keys_are_placed_as_aiokafka_does_and_large_ones_are_not_kept(length: int) -> None:
    key = b"k" * (length - 1) + b"!" if length else b""
    cluster = SimpleNamespace(partitions_for_topic=lambda _: {2, 0, 1})
    producer = SimpleNamespace(client=SimpleNamespace(cluster=cluster))
    held = sys.getrefcount(key)
    for partition in (None, 1):
        found = await partition_for(producer, "out", key, partition)
        assert found == DefaultPartitioner()(key, [0, 1, 2], [0, 1, 2])
    if length == 100_000:
        assert sys.getrefcount(key) == held
