"""Kafka, as the commands need it, over aiokafka.

Everything is bounded, and what fails is told as a sentence. Nothing here creates a topic.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    ProducerFenced,
    for_code,
)

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.kafka_options import MAX_RECORD_BYTES, null_serializer
from flowbinding_api.reasons import Reason
from flowbinding_cli.login import refusal

CONNECT_SECONDS = 15
STALLED_SECONDS = 30
"""No records for so long, although there are some, means that a broker is away."""
COORDINATOR_SECONDS = 20
TRANSACTION_SECONDS = 20
"""After so long Kafka ends the transaction of a dead process, for which readers of committed
records wait."""
CLIENT_ID = "flowbinding-cli"
DEFAULT_RETENTION_MINUTES = 10_080
"""Kafka's own offsets.retention.minutes, for users who may not read the broker's."""

Offsets = dict[TopicPartition, int]


class KafkaTroubleError(FlowBindingError):
    """Kafka did not do what a command asked for."""

    reason = Reason.KAFKA_UNREACHABLE


class FencedError(FlowBindingError):
    """Somebody else has begun to write under the same transactional id."""

    reason = "Fenced"


def no_topic(topics: Iterable[str]) -> KafkaTroubleError:
    """What to say when none of some topics is there."""
    return KafkaTroubleError(
        f"no such topic, or you may not see it: {', '.join(topics)} (create it, or have the"
        " operator do so: spec.provisioning)"
    )


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn aiokafka's errors into sentences.

    Raises:
        KafkaTroubleError: Instead of any of them.
        FencedError: Another producer took over.
    """
    try:
        yield
    except ProducerFenced:
        raise FencedError(f"{what}: another process has taken over, or this one slept") from None
    except (KafkaError, TimeoutError, OSError) as error:
        raise KafkaTroubleError(f"{what}: {_words(error)}") from None


def _words(error: Exception) -> str:
    """What a user can do something about, for errors whose own text is about the client."""
    if isinstance(error, MessageSizeTooLargeError):
        return "a message is larger than the topic takes (max.message.bytes)"
    return str(error) or type(error).__name__


class Cluster:
    """One Kafka cluster. Use as an async context manager.

    Args:
        options: aiokafka's client options, see `flowbinding_api.kafka_options`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = {
            **options,
            "client_id": CLIENT_ID,
            "request_timeout_ms": CONNECT_SECONDS * 1000,
        }
        self._where = str(options["bootstrap_servers"])
        self._admin: Any = None
        self._layout: dict[str, int] | None = None

    async def __aenter__(self) -> Cluster:
        """Connect.

        Raises:
            KafkaTroubleError: No broker answers, or none lets us in.
        """
        self._admin = AIOKafkaAdminClient(**self._options)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._admin.start()
        except (KafkaError, TimeoutError, OSError) as error:
            await self._admin.close()
            # The client itself logs why, and reports only that there is no connection.
            why = await refusal(self._options)
            raise KafkaTroubleError(why or f"Kafka at {self._where}: {_words(error)}") from None
        except BaseException:
            await self._admin.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self._admin.close()

    async def partitions(self, *topics: str) -> list[TopicPartition]:
        """Partitions of the topics, in order; those of topics that do not exist are left out."""
        if self._layout is None:
            # Of all topics: asking for one by name may create it.
            with told("topics"):
                found = await self._admin.describe_topics()
            self._layout = {item["topic"]: len(item["partitions"]) for item in found}
        return [
            TopicPartition(topic, number)
            for topic in dict.fromkeys(topics)
            for number in range(self._layout.get(topic, 0))
        ]

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, str]]:
        """Committed offsets with their metadata; partitions without one are left out.

        Raises:
            KafkaTroubleError: Any of them cannot be read.
        """
        if not partitions:
            return {}
        with told(f"offsets of group {group}"):
            async with asyncio.timeout(COORDINATOR_SECONDS):
                while True:
                    try:
                        found = await self._offsets_of(group, partitions)
                    except KafkaError as error:
                        if not error.retriable:
                            raise
                    else:
                        # An error about the whole group comes as an answer without partitions.
                        if all(partition in found for partition in partitions):
                            return {
                                tp: (item.offset, item.metadata or "")
                                for tp, item in found.items()
                                if item.offset >= 0
                            }
                    await asyncio.sleep(0.1)

    async def _offsets_of(self, group: str, partitions: Collection[TopicPartition]) -> Any:
        return await self._admin.list_consumer_group_offsets(group, partitions=list(partitions))

    async def members(self, group: str) -> dict[str, list[TopicPartition]]:
        """What the members of a group consume, by their client ids.

        Raises:
            KafkaTroubleError: The group cannot be read.
        """
        with told(f"members of group {group}"):
            async with asyncio.timeout(COORDINATOR_SECONDS):
                while True:
                    try:
                        found = await self._members_of(group)
                    except KafkaError as error:
                        # The first group of a new cluster waits for its coordinator.
                        if not error.retriable:
                            raise
                    else:
                        return {member[1]: _assigned(member[4]) for member in found}
                    await asyncio.sleep(0.1)

    async def _members_of(self, group: str) -> Any:
        [answer] = await self._admin.describe_consumer_groups([group])
        code, _, _, _, _, found, *_ = answer.groups[0]
        if code:
            raise for_code(code)(group)
        return found

    async def offset_retention_seconds(self) -> float:
        """For how long the brokers keep a group's last commit."""
        try:
            brokers = (await self._admin.describe_cluster())["brokers"]
            broker = str(brokers[0]["node_id"])
        except (KafkaError, LookupError):
            broker = ""
        found = await self._setting(ConfigResourceType.BROKER, broker, "offsets.retention.minutes")
        # Who may not see it, gets what Kafka has by default.
        return (DEFAULT_RETENTION_MINUTES if found is None else found) * 60.0

    async def replicas(self, topic: str) -> tuple[list[Mapping[str, Any]], int | None]:
        """A topic's partitions, as Kafka's metadata has them, and its min.insync.replicas.

        Returns:
            For each partition `partition`, `leader`, `replicas` and `isr`; and the setting, None
            when we may not see it.

        Raises:
            KafkaTroubleError: No broker answers.
        """
        with told("topics"):
            topics = await self._admin.describe_topics()
        parts = [part for item in topics if item["topic"] == topic for part in item["partitions"]]
        wanted = await self._setting(ConfigResourceType.TOPIC, topic, "min.insync.replicas")
        return parts, wanted

    async def _setting(self, kind: ConfigResourceType, name: str, key: str) -> int | None:
        try:
            wanted = ConfigResource(kind, name, configs={key: None})
            [answer] = await self._admin.describe_configs([wanted])
            return int(answer.resources[0][4][0][1])
        except (KafkaError, LookupError, ValueError, TypeError):
            return None

    @asynccontextmanager
    async def reader(self, partitions: Iterable[TopicPartition]) -> AsyncIterator[Reader]:
        """Reads partitions without a group, committed records only."""
        consumer = AIOKafkaConsumer(
            **self._options,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        assigned = list(partitions)
        try:
            with told("connecting to read"):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await consumer.start()
            # Its own tasks have to begin: stopped before, it raises CancelledError.
            await asyncio.sleep(0)
            if assigned:
                consumer.assign(assigned)
            yield Reader(consumer, assigned)
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def producer(self, transactional_id: str | None = None) -> AsyncIterator[Any]:
        """An idempotent or, with an id, a transactional producer.

        Starting a transactional one fences whoever else uses its id, and ends what they left open.
        """
        producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_request_size=MAX_RECORD_BYTES,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_SECONDS * 1000,
            key_serializer=null_serializer,
            value_serializer=null_serializer,
        )
        with told("connecting to write"):
            try:
                async with asyncio.timeout(2 * CONNECT_SECONDS):
                    await producer.start()
            except BaseException:
                await producer.client.close()
                raise
        try:
            yield producer
        finally:
            with told("disconnecting"):
                # What is in no transaction was waited for, or given up.
                await _close(producer, CONNECT_SECONDS if transactional_id else 1)


async def _close(producer: Any, seconds: float) -> None:
    """Stop a producer, within bounds: its flush may wait for ever for what cannot be written."""
    try:
        async with asyncio.timeout(seconds):
            await producer.stop()
    except (TimeoutError, KafkaError):
        await producer.client.close()


class Reader:
    """A consumer that is assigned to partitions.

    Args:
        consumer: A started AIOKafkaConsumer.
        partitions: What it is assigned to.
    """

    def __init__(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        self._consumer = consumer
        self._partitions = partitions

    async def starts(self) -> Offsets:
        """First offsets."""
        return await self._ask(self._consumer.beginning_offsets)

    async def ends(self) -> Offsets:
        """End offsets, before the first transaction that is still open."""
        return await self._ask(self._consumer.end_offsets)

    async def _ask(self, call: Any) -> Offsets:
        with told("offsets"):
            found: Offsets = await call(self._partitions) if self._partitions else {}
        return found

    async def older_than(self, timestamp_ms: int) -> Offsets:
        """How many offsets of each partition lie before a time."""
        if not self._partitions:
            return {}
        starts, ends = await self.starts(), await self.ends()
        times = dict.fromkeys(self._partitions, timestamp_ms)
        with told("offsets"):
            found = await self._consumer.offsets_for_times(times)
        return {
            tp: (ends[tp] if found.get(tp) is None else found[tp].offset) - starts[tp]
            for tp in self._partitions
        }

    def seek(self, offsets: Offsets) -> None:
        """Where to go on."""
        for partition, offset in offsets.items():
            self._consumer.seek(partition, offset)

    async def until(self, ends: Offsets) -> AsyncIterator[list[ConsumerRecord]]:
        """Batches of records, in order within a partition, up to the given ends.

        Raises:
            KafkaTroubleError: No broker gives what is there.
        """
        quiet = 0.0
        while await self._left(ends):
            found = await self._next()
            quiet = 0.0 if found else quiet + 0.2
            if quiet > STALLED_SECONDS:
                raise KafkaTroubleError(f"no record for {STALLED_SECONDS} s; some are left")
            for partition, records in found.items():
                yield [record for record in records if record.offset < ends[partition]]

    async def _left(self, ends: Offsets) -> int:
        return sum(
            [max(0, end - await self._consumer.position(tp)) for tp, end in ends.items() if end]
        )

    async def follow(self) -> AsyncGenerator[list[ConsumerRecord], None]:
        """Batches of records as they come, without end."""
        while True:
            for records in (await self._next()).values():
                yield records

    async def _next(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        with told("reading"):
            found: dict[TopicPartition, list[ConsumerRecord]]
            found = await self._consumer.getmany(timeout_ms=200)
        return found


def _assigned(raw: bytes) -> list[TopicPartition]:
    if not raw:
        return []
    return list(ConsumerProtocolMemberAssignment.decode(raw).partitions())
