"""Topics, messages and offsets on a real broker, for tests and the demo."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.protocol.group import LeaveGroupRequest

ROOT = Path(__file__).parents[1]

MOVING = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
"""No coordinator yet: a broker that never had a group makes its offsets topic first."""

Message = tuple[bytes | None, bytes | None]
TopicFactory = Callable[..., Awaitable[str]]
"""Fixture: `await new_topic(partitions=3, **config)` makes a topic with a name of its own."""


@asynccontextmanager
async def admin(bootstrap: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """A connected admin client."""
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def create_topics(
    bootstrap: str,
    *names: str,
    partitions: int = 3,
    replicas: int = 1,
    config: Mapping[str, str] | None = None,
) -> None:
    """Create topics; those that exist are left as they are."""
    settings = dict(config or {})
    async with admin(bootstrap) as client:
        topics = [NewTopic(name, partitions, replicas, topic_configs=settings) for name in names]
        answer = await client.create_topics(topics)
        for _, code, *message in answer.topic_errors:
            error = for_code(code)
            if code and error is not TopicAlreadyExistsError:
                raise error(*message)
        # The controller knows them before the brokers do.
        async with asyncio.timeout(30):
            while True:
                if set(names) <= set(await client.list_topics()):
                    return
                await asyncio.sleep(0.02)


async def delete_topics(bootstrap: str, *names: str) -> None:
    """Delete topics."""
    async with admin(bootstrap) as client:
        await client.delete_topics(list(names))


@asynccontextmanager
async def topic_factory(bootstrap: str) -> AsyncIterator[TopicFactory]:
    """Makes topics with names of their own, and deletes them at the end."""
    prefix = f"t-{uuid.uuid4().hex[:8]}"
    made: list[str] = []

    async def new(partitions: int = 3, **config: str) -> str:
        name = f"{prefix}-{len(made)}"
        made.append(name)
        await create_topics(bootstrap, name, partitions=partitions, config=config)
        return name

    yield new
    if made:
        await delete_topics(bootstrap, *made)


async def produce(bootstrap: str, topic: str, messages: Iterable[Message], **kwargs: Any) -> int:
    """Send (key, value) messages, acknowledged by all replicas.

    Returns:
        How many were sent.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, key=key, value=value, **kwargs) for key, value in messages
        ]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()
    return len(sent)


@asynccontextmanager
async def reader(bootstrap: str, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without a group, assigned to all partitions of the topics, at their beginning."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        found = [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(await _numbers(consumer, topic))
        ]
        consumer.assign(found)
        await consumer.seek_to_beginning(*found)
        yield consumer
    finally:
        await consumer.stop()


async def _numbers(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    # Public calls do not load an unknown topic's metadata for a consumer without a subscription.
    await consumer._client.add_topic(topic)
    while not (found := consumer.partitions_for_topic(topic)):
        # A topic made a moment ago need not be known to every broker yet.
        await consumer._client.force_metadata_update()
        await asyncio.sleep(0.05)
    return set(found)


async def read_all(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Every record that is in the topic now."""
    records: list[ConsumerRecord] = []
    async with reader(bootstrap, topic) as consumer:
        ends = await consumer.end_offsets(list(consumer.assignment()))
        while any([await consumer.position(tp) < end for tp, end in ends.items()]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                records.extend(batch)
    return records


async def read_until(
    bootstrap: str, topic: str, count: int, *, seconds: float = 60
) -> list[ConsumerRecord]:
    """Records of the topic from its beginning until there are `count`.

    Raises:
        TimeoutError: Saying how many there were.
    """
    records: list[ConsumerRecord] = []
    try:
        async with asyncio.timeout(seconds), reader(bootstrap, topic) as consumer:
            while len(records) < count:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records.extend(batch)
    except TimeoutError:
        raise TimeoutError(f"{len(records)} of {count} records in {topic}") from None
    return records


async def committed(bootstrap: str, group: str) -> dict[TopicPartition, tuple[int, str]]:
    """Committed offsets of a group with their metadata; partitions without one are left out."""
    async with admin(bootstrap) as client:
        return await committed_by(client, group)


async def committed_by(
    client: AIOKafkaAdminClient, group: str
) -> dict[TopicPartition, tuple[int, str]]:
    """The same through a client that is connected."""
    while True:
        try:
            offsets = await client.list_consumer_group_offsets(group)
        except MOVING:
            await asyncio.sleep(0.1)
        else:
            return {tp: (o.offset, o.metadata) for tp, o in offsets.items() if o.offset >= 0}


async def commit(bootstrap: str, group: str, positions: Mapping[TopicPartition, Any]) -> None:
    """Commit offsets, or pairs of offset and metadata, for a group that has no members."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False
    )
    await consumer.start()
    try:
        consumer.assign(list(positions))
        await consumer.commit(dict(positions))
    finally:
        await consumer.stop()


async def coordinator(bootstrap: str, group: str) -> int:
    """Node of the broker that coordinates a group."""
    async with admin(bootstrap) as client:
        while True:
            try:
                return int(await client.find_coordinator(group))
            except MOVING:
                await asyncio.sleep(0.1)


async def members(bootstrap: str, group: str) -> list[str]:
    """Ids of a group's members, dead ones included until their session times out."""
    async with admin(bootstrap) as client:
        [answer] = await client.describe_consumer_groups([group])
    [(_, _, _, _, _, found, *_)] = answer.groups
    return [member[0] for member in found]


async def evict(bootstrap: str, group: str) -> None:
    """Take all members out of a group, as the session timeout does with dead ones after 45 s."""
    found = await members(bootstrap, group)
    async with admin(bootstrap) as client:
        node = await client.find_coordinator(group)
        for member in found:
            answer = await client._send_request(LeaveGroupRequest(group, member), node)
            if answer.error_code:
                raise for_code(answer.error_code)


async def lag(bootstrap: str, group: str, topic: str) -> int:
    """Messages of the topic that the group has not committed past."""
    offsets = await committed(bootstrap, group)
    async with reader(bootstrap, topic) as consumer:
        ends = await consumer.end_offsets(list(consumer.assignment()))
    return sum(max(0, end - offsets.get(tp, (0, ""))[0]) for tp, end in ends.items())
