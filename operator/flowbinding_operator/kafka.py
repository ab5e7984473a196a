"""The few Kafka requests that the operator makes, many partitions and groups at a time.

aiokafka's consumer and admin client cannot do it. The one looks up unknown topics one after
another (20 s for 1,200 partitions), keeps asking for the metadata of all topics, and may create a
topic that it only asks for; the other has no ListOffsets; and both hide why a broker refused. So
this speaks aiokafka's protocol classes over its connections.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka_connections import ClusterError as ClusterError
from flowbinding_operator.kafka_connections import MovedError as MovedError
from flowbinding_operator.kafka_groups import TOPIC_DENIED, Groups
from flowbinding_operator.lag import Partition, Trouble

LATEST, EARLIEST = -1, -2
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
UNKNOWN_TOPIC = 3


@dataclass(slots=True)
class Layout:
    """Which broker leads what.

    Attributes:
        leaders: Node of every partition; -1 while it has none.
        troubles: What is wrong with a topic, by name.
    """

    leaders: dict[Partition, int] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    _by_topic: dict[str, list[Partition]] = field(default_factory=dict)
    _by_topics: dict[tuple[str, ...], list[Partition]] = field(default_factory=dict)

    def partitions(self, topics: Iterable[str]) -> Sequence[Partition]:
        """All partitions of some topics, in their order: brokers answer in any. No more may come.

        Asked for every binding at every look, so that it must not go through all of the cluster's.
        """
        if not self._by_topic:
            for partition in sorted(self.leaders):
                self._by_topic.setdefault(partition.topic, []).append(partition)
        names = tuple(topics)
        found = self._by_topics.get(names)
        if found is None:
            found = [p for topic in dict.fromkeys(names) for p in self._by_topic.get(topic, ())]
            self._by_topics[names] = found
        return found


class KafkaLink(Groups):
    """All requests to one cluster; connections are made when needed."""

    async def layout(self, topics: Iterable[str]) -> Layout:
        """Partitions and leaders of topics, in one request. Never creates a topic."""
        names = sorted(set(topics))
        answer = await self._send_any(MetadataRequest(names, allow_auto_topic_creation=False))
        self._brokers = {broker[0]: (broker[1], broker[2]) for broker in answer.brokers}
        layout = Layout()
        for error, topic, _, partitions in answer.topics:
            trouble = _topic_trouble(error, topic, self._bootstrap)
            if trouble is not None:
                layout.troubles[topic] = trouble
            for _, number, leader, *_ in partitions:
                layout.leaders[Partition(topic, number)] = leader
        return layout

    async def offsets(
        self,
        layout: Layout,
        partitions: Iterable[Partition],
        which: int,
        *,
        open_too: bool = False,
    ) -> dict[Partition, int]:
        """End (LATEST) or start (EARLIEST) offsets, with one request for each leading broker.

        Partitions without an answer are missing from the result.

        Args:
            layout: Who leads what.
            partitions: Whose offsets.
            which: EARLIEST or LATEST.
            open_too: Whether messages of transactions that are still open count too. Workers do not
                get them, so that they are no lag.

        Raises:
            ClusterError: When no broker answered.
        """
        by_leader: defaultdict[int, list[Partition]] = defaultdict(list)
        for partition in partitions:
            by_leader[layout.leaders.get(partition, -1)].append(partition)
        by_leader.pop(-1, None)
        answers = await asyncio.gather(
            *(self._offsets(node, items, which, open_too) for node, items in by_leader.items()),
            return_exceptions=True,
        )
        result: dict[Partition, int] = {}
        failures = []
        for answer in answers:
            if isinstance(answer, dict):
                result |= answer
            elif isinstance(answer, ClusterError):
                failures.append(answer)
            else:
                raise answer
        if failures and not result:
            raise failures[0]
        return result

    async def ask_controller(self, request: Any) -> Any:
        """Send a request to the cluster's controller; its answer.

        Raises:
            ClusterError: When it does not answer.
        """
        about = await self._send_any(MetadataRequest([], allow_auto_topic_creation=False))
        self._brokers = {broker[0]: (broker[1], broker[2]) for broker in about.brokers}
        return await self._send(about.controller_id, request)

    async def _offsets(
        self, node: int, partitions: list[Partition], which: int, open_too: bool
    ) -> dict[Partition, int]:
        by_topic: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for topic, number in partitions:
            by_topic[topic].append((number, which))
        isolation = READ_UNCOMMITTED if open_too else READ_COMMITTED
        answer = await self._send(node, OffsetRequest(-1, isolation, list(by_topic.items())))
        return {
            Partition(topic, number): offset
            for topic, items in answer.topics
            for number, error, _, offset in items
            if error == 0
        }


def _topic_trouble(error: int, topic: str, bootstrap: str) -> Trouble | None:
    if error == TOPIC_DENIED:
        message = f"no permission to describe topic {topic!r} on {bootstrap}"
        return Trouble(Reason.TOPIC_UNAUTHORIZED, message)
    if error == UNKNOWN_TOPIC:
        return Trouble(Reason.TOPIC_MISSING, f"topic {topic!r} does not exist on {bootstrap}")
    if error:
        name = kafka_errors.for_code(error).__name__
        return Trouble(Reason.KAFKA_UNREACHABLE, f"topic {topic!r} on {bootstrap}: {name}")
    return None
