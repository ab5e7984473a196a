"""Kafka through aiokafka: the producer of results and dead letters."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.partitioner import DefaultPartitioner

from flowbinding_api.kafka_options import MAX_RECORD_BYTES, NULL, null_serializer
from flowbinding_api.reasons import Reason
from flowbinding_worker.kafka.port import Headers, KafkaUnavailableError, RecordTooLargeError
from flowbinding_worker.waiting import within

CONNECT_SECONDS = 15
TOPIC_SECONDS = 3
STOP_SECONDS = 2

_PARTITIONER = DefaultPartitioner()

_MAX_KEPT_KEY = 1024
"""Bytes of a key whose partition is remembered: a key may be as large as a record."""


class KafkaProducer:
    """An idempotent producer that connects when it is first needed; implements `ProducerPort`.

    After a record that the broker refused for good, the sequence numbers of its partition have a
    gap, and the broker refuses all that follows: the producer is then made anew.

    Args:
        options: Gives the client options; called for every connection.
        client_id: Shows in the broker's logs.
        linger_ms: Least time between two requests to a broker; a record alone leaves at once. Each
            request costs as much as a record.
    """

    def __init__(
        self, options: Callable[[], dict[str, Any]], client_id: str, linger_ms: int = 0
    ) -> None:
        self._options = options
        self._linger_ms = linger_ms
        self._narrow: set[str] = set()
        self._client_id = client_id
        self._connection: _Connection | None = None
        self._lock = asyncio.Lock()

    async def stop(self) -> None:
        """Flush, within bounds, and disconnect."""
        async with self._lock:
            await self._discard()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        """Write one record and wait for its acknowledgement; see `ProducerPort`."""
        if topic not in self._narrow:
            try:
                await self._write(among_others, topic, key, value, headers, partition)
            except (MessageSizeTooLargeError, RecordListTooLargeError):
                # A topic's limit is one for batches: the record may only have been in bad company.
                pass
            else:
                return
        try:
            await self._write(_alone, topic, key, value, headers, partition)
        except (MessageSizeTooLargeError, RecordListTooLargeError):
            raise RecordTooLargeError(f"too large for topic {topic}") from None
        # Its limit is below that of our batches: each refusal would cost a connection.
        self._narrow.add(topic)

    async def _write(
        self,
        send: _Send,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
    ) -> None:
        connection = self._connection or await self._connected()
        producer = connection.producer
        try:
            number = await partition_for(producer, topic, key, partition)
            sent = await send(producer, topic, number, key, value, headers)
            await connection.outlasting(sent)
        except TopicAuthorizationFailedError:
            await self._replace(connection)
            raise KafkaUnavailableError(
                f"not authorized to write to topic {topic}", reason=Reason.TOPIC_UNAUTHORIZED
            ) from None
        except TimeoutError:
            raise KafkaUnavailableError(
                f"topic {topic}: does not exist, or this user may not see it",
                reason=Reason.TOPIC_MISSING,
            ) from None
        except KafkaTimeoutError:
            raise KafkaUnavailableError(f"topic {topic}: takes no more records") from None
        except (MessageSizeTooLargeError, RecordListTooLargeError):
            await self._replace(connection)
            raise
        except KafkaError as error:
            await self._replace(connection)
            raise KafkaUnavailableError(f"topic {topic}: {error}") from None

    async def _connected(self) -> _Connection:
        async with self._lock:
            if self._connection is None:
                self._connection = _Connection(await self._connect())
            return self._connection

    async def _connect(self) -> Any:
        producer = AIOKafkaProducer(
            **self._options(),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            linger_ms=self._linger_ms,
            max_request_size=MAX_RECORD_BYTES,
            request_timeout_ms=CONNECT_SECONDS * 1000,
            metadata_max_age_ms=60_000,
            key_serializer=null_serializer,
            value_serializer=null_serializer,
        )
        try:
            await within(producer.start(), CONNECT_SECONDS)
        except (KafkaError, TimeoutError, OSError) as error:
            await close(producer)
            raise KafkaUnavailableError(str(error) or "Kafka does not answer") from None
        except BaseException:
            await close(producer)
            raise
        return producer

    async def _replace(self, broken: _Connection) -> None:
        async with self._lock:
            if self._connection is broken:
                await self._discard()

    async def _discard(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await close(connection.producer)
            finally:
                # Also when cancelled meanwhile.
                connection.gone()


class _Connection:
    """A connected producer, and whether it is still the one in use."""

    def __init__(self, producer: Any) -> None:
        self.producer = producer
        self._waiting: set[asyncio.Future[Any]] = set()
        self._is_gone = False

    async def outlasting(self, sent: asyncio.Future[Any]) -> None:
        """Wait for an acknowledgement, which never comes once the producer is closed.

        Raises:
            KafkaError: The record was refused, or the producer closed before it was acknowledged.
        """
        self._waiting.add(sent)
        if self._is_gone:
            self.gone()
        try:
            await sent
        finally:
            self._waiting.discard(sent)

    def gone(self) -> None:
        """The producer is closed: whoever waits would wait for ever."""
        self._is_gone = True
        for sent in self._waiting:
            if not sent.done():
                sent.set_exception(KafkaError("the connection was renewed"))


_Send = Callable[
    [Any, str, int, bytes | None, bytes | None, Headers], Awaitable[asyncio.Future[Any]]
]


async def among_others(
    producer: Any, topic: str, number: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Any:
    """Write a record in a batch with others; returns what is resolved by its acknowledgement."""
    return await producer.send(
        topic,
        key=NULL if key is None else key,
        value=NULL if value is None else value,
        headers=list(headers),
        partition=number,
    )


async def _alone(
    producer: Any, topic: str, number: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Any:
    batch = producer.create_batch()
    batch.append(key=key, value=value, timestamp=None, headers=list(headers))
    batch.close()
    return await producer.send_batch(batch, topic, partition=number)


async def partition_for(producer: Any, topic: str, key: bytes | None, partition: int | None) -> int:
    """The partition that a record goes to."""
    cluster = producer.client.cluster
    known = cluster.partitions_for_topic(topic)
    if known is None:
        known = await within(producer.partitions_for(topic), TOPIC_SECONDS)
    if key is None and partition is not None:
        return partition % len(known)
    if key is not None:
        place = _place if len(key) <= _MAX_KEPT_KEY else _hashed
        return place(key, tuple(sorted(known)))
    available = cluster.available_partitions_for_topic(topic)
    return int(_PARTITIONER(None, sorted(known), list(available or ())))


def _hashed(key: bytes, partitions: tuple[int, ...]) -> int:
    return int(_PARTITIONER(key, partitions, partitions))


# aiokafka hashes in Python, which takes longer than all else that is done to send a record.
_place = lru_cache(maxsize=1024)(_hashed)


async def close(producer: Any) -> None:
    """Stop a producer, within bounds."""
    try:
        await within(producer.stop(), STOP_SECONDS)
    except (TimeoutError, KafkaError):
        # Its flush waits for ever for records that cannot be written: close what is below it.
        with contextlib.suppress(TimeoutError, KafkaError):
            await within(producer.client.close(), STOP_SECONDS)
            await within(producer._sender.close(), STOP_SECONDS)
