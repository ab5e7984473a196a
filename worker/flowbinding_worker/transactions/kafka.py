"""Kafka's transactions through aiokafka.

aiokafka 0.14 ends a transaction well if nothing goes wrong, over restarts of the broker too. When
something does go wrong, its producer cannot be used any more: after a record that was refused it
would commit the others, and after an abort its sequence numbers have a gap. So nothing is aborted
or repaired here: the next `open` is a new producer, and its InitProducerId ends whatever was under
way, raises the epoch and so refuses all that may still arrive from the old one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup, CoordinationType
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.structs import OffsetAndMetadata

from flowbinding_api.kafka_options import MAX_RECORD_BYTES, null_serializer
from flowbinding_api.reasons import Reason
from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position, RecordTooLargeError
from flowbinding_worker.kafka.producer import among_others, close, partition_for
from flowbinding_worker.ports import Partition
from flowbinding_worker.transactions.offsets import UNSTABLE, StableOffsetFetch, answer_of
from flowbinding_worker.transactions.port import TopicRefusedError

OPEN_SECONDS = 15
TRANSACTION_MS = 30_000
"""When the broker aborts a transaction whose worker is gone: until then, readers of the output
topic wait behind it. A new owner aborts it sooner."""
AGAIN_SECONDS = 0.05


class KafkaTransactions:
    """One transactional id; implements `TransactionPort`.

    Args:
        options: Gives the client options; called for every connection.
        client_id: Shows in the broker's logs.
        group: Consumer group whose offset is committed.
        partition: The source partition that it stands for.
    """

    def __init__(
        self,
        options: Callable[[], dict[str, Any]],
        client_id: str,
        group: str,
        partition: Partition,
    ) -> None:
        self._options = options
        self._client_id = client_id
        self._group = group
        self._partition = TopicPartition(*partition)
        self._producer: Any = None

    @property
    def transactional_id(self) -> str:
        """The same for every owner of the partition."""
        return f"{self._group}-{self._partition.topic}-{self._partition.partition}"

    async def open(self) -> Position | None:
        """A new producer; see `TransactionPort`."""
        await self.close()
        self._producer = self._make()
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._producer.start()
                return await self._committed()
        except TransactionalIdAuthorizationFailed:
            raise KafkaUnavailableError(
                f"not authorized for transactional id {self.transactional_id}",
                reason=Reason.KAFKA_UNAUTHORIZED,
            ) from None
        except (KafkaError, TimeoutError, OSError) as error:
            raise KafkaUnavailableError(str(error) or "Kafka does not answer") from None

    async def commit(self, records: Sequence[Message], position: Position) -> None:
        """One transaction; see `TransactionPort`."""
        producer = self._producer
        if producer is None:
            raise KafkaUnavailableError("not connected")
        placed = [(r, await _placed(producer, r)) for r in records]
        try:
            await producer.begin_transaction()
            sent = await _sent(producer, placed)
            offset = {self._partition: OffsetAndMetadata(*position)}
            offsets = producer.send_offsets_to_transaction(offset, self._group)
            _check(records, await asyncio.gather(*sent, offsets, return_exceptions=True))
            await producer.commit_transaction()
        except (KafkaError, AssertionError) as error:
            # Its state machine asserts.
            raise KafkaUnavailableError(str(error) or type(error).__name__) from None

    async def close(self) -> None:
        """Disconnect; see `TransactionPort`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await close(producer)
            _hush(producer)

    def _make(self) -> Any:
        return AIOKafkaProducer(
            **self._options(),
            client_id=self._client_id,
            transactional_id=self.transactional_id,
            transaction_timeout_ms=TRANSACTION_MS,
            acks="all",
            linger_ms=0,
            max_request_size=MAX_RECORD_BYTES,
            request_timeout_ms=OPEN_SECONDS * 1000,
            metadata_max_age_ms=300_000,
            key_serializer=null_serializer,
            value_serializer=null_serializer,
        )

    async def _committed(self) -> Position | None:
        """What is committed, asked over the producer's own connections."""
        while True:
            try:
                code, offset, metadata = await self._ask()
                if not code:
                    return Position(offset, metadata) if offset >= 0 else None
                if code != UNSTABLE:
                    raise for_code(code)()
            except KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    async def _ask(self) -> tuple[int, int, str]:
        client = self._producer.client
        request = StableOffsetFetch(self._group, *self._partition)
        node = await client.coordinator_lookup(CoordinationType.GROUP, self._group)
        await client.ready(node, group=ConnectionGroup.COORDINATION)
        return answer_of(await client.send(node, request, group=ConnectionGroup.COORDINATION))


async def _placed(producer: Any, record: Message) -> int:
    """The partition that a record goes to."""
    try:
        return await partition_for(producer, record.topic, record.key, record.partition)
    except TopicAuthorizationFailedError:
        raise _unauthorized(record.topic) from None
    except (TimeoutError, UnknownTopicOrPartitionError):
        raise TopicRefusedError(
            record.topic,
            f"topic {record.topic}: does not exist, or this user may not see it",
            Reason.TOPIC_MISSING,
        ) from None


async def _sent(
    producer: Any, placed: Sequence[tuple[Message, int]]
) -> Sequence[asyncio.Future[Any]]:
    """Hand records over; the futures end when they are acknowledged."""
    sent: list[asyncio.Future[Any]] = []
    try:
        for r, number in placed:
            sent.append(await among_others(producer, r.topic, number, r.key, r.value, r.headers))
    except BaseException:
        for future in sent:
            future.cancel()
        raise
    return sent


def _check(records: Sequence[Message], results: Sequence[Any]) -> None:
    """Raise what went wrong first of all: one fault makes others follow."""
    errors = [r if isinstance(r, BaseException) else None for r in results]
    for record, error in zip(records, errors, strict=False):
        if isinstance(error, (MessageSizeTooLargeError, RecordListTooLargeError)):
            raise RecordTooLargeError(f"too large for topic {record.topic}")
        if isinstance(error, TopicAuthorizationFailedError):
            raise _unauthorized(record.topic)
    for error in errors:
        if error is not None:
            raise error


def _unauthorized(topic: str) -> TopicRefusedError:
    text = f"not authorized to write to topic {topic}"
    return TopicRefusedError(topic, text, Reason.TOPIC_UNAUTHORIZED)


def _hush(producer: Any) -> None:
    """Take note of errors that aiokafka keeps for nobody: asyncio would log each of them."""
    batches = producer._message_accumulator._batches.values()
    waiters = [batch._drain_waiter for some in batches for batch in some]
    for waiter in [*waiters, producer._txn_manager.wait_for_transaction_end()]:
        if waiter is not None and waiter.done() and not waiter.cancelled():
            waiter.exception()
