"""Committed offsets of groups, read and written without being a member: Kafka's side of registers.

A connection of its own: aiokafka's consumer has one for all requests to its group's coordinator,
and a JoinGroup under way, which lasts as long as the rebalance, holds up what comes after it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from flowbinding_api.reasons import Reason
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position
from flowbinding_worker.ports import Partition
from flowbinding_worker.waiting import within

REQUEST_MS = 3000
CLOSE_SECONDS = 1.0


class OffsetsPort(Protocol):
    """Committed offsets of groups, for somebody who is no member."""

    async def read(
        self, group: str, partitions: Collection[Partition]
    ) -> Mapping[Partition, Position]:
        """Committed offsets with metadata; partitions without one are left out.

        May wait for ever; the caller bounds it.

        Raises:
            KafkaUnavailableError: It could not be read. `retriable` says whether it may be later.
        """

    async def write(self, group: str, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets with metadata, for a group without members.

        May wait for ever; the caller bounds it.

        Raises:
            KafkaUnavailableError: It was not written, or may have been.
        """

    async def close(self) -> None:
        """Disconnect."""


class KafkaOffsets:
    """Implements `OffsetsPort` on aiokafka's client; connects when it is first needed.

    Args:
        options: Gives the client options; called for every connection.
        client_id: Shows in the broker's logs.
        topics: Of the binding: a client without topics would ask for the metadata of all.
    """

    def __init__(
        self, options: Callable[[], dict[str, Any]], client_id: str, topics: Collection[str]
    ) -> None:
        self._options = options
        self._client_id = client_id
        self._topics = tuple(topics)
        self._client: Any = None
        self._connecting = asyncio.Lock()
        self._coordinators: dict[str, int] = {}

    async def read(
        self, group: str, partitions: Collection[Partition]
    ) -> Mapping[Partition, Position]:
        """Committed offsets with metadata; see `OffsetsPort`."""
        topics: defaultdict[str, list[int]] = defaultdict(list)
        for topic, number in partitions:
            topics[topic].append(number)
        answer = await self._send(group, OffsetFetchRequest(group, list(topics.items())))
        found = {}
        for topic, items in answer.topics:
            for number, offset, metadata, code in items:
                self._check(group, code)
                if offset >= 0:
                    found[Partition(topic, number)] = Position(offset, metadata or "")
        self._check(group, getattr(answer, "error_code", 0))
        return found

    async def write(self, group: str, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets with metadata; see `OffsetsPort`."""
        topics: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for (topic, number), position in positions.items():
            topics[topic].append((number, *position))
        request = OffsetCommitRequest(
            group,
            OffsetCommitRequest.DEFAULT_GENERATION_ID,
            "",
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(topics.items()),
        )
        answer = await self._send(group, request)
        for _, items in answer.topics:
            for _, code in items:
                self._check(group, code)

    async def close(self) -> None:
        """Disconnect; see `OffsetsPort`."""
        client, self._client = self._client, None
        if client is not None:
            await within(client.close(), CLOSE_SECONDS)

    async def _send(self, group: str, request: Any) -> Any:
        with _as_unavailable(group):
            client = await self._connected()
            node = self._coordinators.get(group)
            if node is None:
                node = await client.coordinator_lookup(CoordinationType.GROUP, group)
                self._coordinators[group] = node
            try:
                return await client.send(node, request, group=ConnectionGroup.COORDINATION)
            except BaseException:
                # Also when the caller has waited long enough: it may be elsewhere by now.
                self._coordinators.pop(group, None)
                raise

    async def _connected(self) -> Any:
        async with self._connecting:
            if self._client is None:
                client = AIOKafkaClient(
                    **self._options(),
                    client_id=self._client_id,
                    request_timeout_ms=REQUEST_MS,
                    metadata_max_age_ms=60_000,
                )
                try:
                    await client.bootstrap()
                    await client.set_topics(self._topics)
                except BaseException:
                    await client.close()
                    raise
                self._client = client
            return self._client

    def _check(self, group: str, code: int) -> None:
        if code:
            self._coordinators.pop(group, None)
            with _as_unavailable(group):
                raise for_code(code)()


@contextmanager
def _as_unavailable(group: str) -> Iterator[None]:
    try:
        yield
    except (GroupAuthorizationFailedError, TopicAuthorizationFailedError):
        error = KafkaUnavailableError(
            f"not authorized for consumer group {group}", reason=Reason.KAFKA_UNAUTHORIZED
        )
        error.retriable = False
        raise error from None
    except (KafkaError, TimeoutError, OSError) as error:
        text = str(error) or type(error).__name__
        raise KafkaUnavailableError(f"consumer group {group}: {text}") from None
