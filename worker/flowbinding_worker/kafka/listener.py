"""Kafka through aiokafka: what happens when the group hands out partitions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from flowbinding_worker.kafka.port import ConsumerBrokenError, Rebalances
from flowbinding_worker.ports import Partition
from flowbinding_worker.waiting import within

log = structlog.get_logger(__name__)

COMMIT_SECONDS = 5.0
"""aiokafka's commit tries for ever, and the group waits for us meanwhile."""


class Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes aiokafka's callbacks on, and knows when polling is safe.

    Args:
        inner: Told about partitions.
        consumer: An AIOKafkaConsumer.
        latest: Whether a topic of which the group has no commit begins at its end.
    """

    def __init__(self, inner: Rebalances, consumer: Any, *, latest: bool) -> None:
        self._latest = latest
        self._inner = inner
        self._consumer = consumer
        self.generation = 0
        """Counts the times that partitions were taken away."""
        self.settled = False
        """Whether the partitions assigned are known to the engine."""
        self._failure: Exception | None = None

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Called by aiokafka before it joins again."""
        self.generation += 1
        self.settled = False
        # There is no callback of its own for a membership that was lost.
        generation = generation_of(self._consumer)
        partitions = [Partition(*tp) for tp in revoked]
        with self._noting_failure():
            await self._inner.revoked(partitions, lost=generation < 0, generation=generation)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Called by aiokafka when it has joined."""
        with self._noting_failure():
            if self._latest:
                await self._begin_at_end(assigned)
            generation = generation_of(self._consumer)
            await self._inner.assigned([Partition(*tp) for tp in assigned], generation=generation)
            self.settled = True

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Only logged by aiokafka, an error would leave us waiting for ever."""
        try:
            yield
        except Exception as error:
            self._failure = error
            raise

    def raise_failure(self) -> None:
        """Raise `ConsumerBrokenError` if a callback has failed."""
        if self._failure is not None:
            raise ConsumerBrokenError("a rebalance failed") from self._failure

    async def _begin_at_end(self, assigned: Collection[TopicPartition]) -> None:
        """Begin topics at their end of which the group has no commit at all.

        A partition without a commit, of a topic that has some, was added later: it begins at its
        beginning, or what was written before we noticed it would be lost.

        Not through aiokafka's reset strategy: that one also decides where to go on after retention
        has deleted what was committed, and must not skip what is left then.
        """
        consumer = self._consumer
        topics = {tp.topic for tp in assigned}
        everything = set(assigned).union(
            TopicPartition(topic, number)
            for topic in topics
            for number in consumer.partitions_for_topic(topic) or ()
        )
        known = await consumer._coordinator.fetch_committed_offsets(sorted(everything))
        begun = {tp.topic for tp in known}
        new = sorted(tp for tp in everything if tp.topic not in begun)
        added = sorted(tp for tp in assigned if tp not in known and tp.topic in begun)
        starts: dict[TopicPartition, int] = {}
        if new:
            starts |= await consumer.end_offsets(new)
        if added:
            starts |= await consumer.beginning_offsets(added)
        for tp in starts.keys() & set(assigned):
            consumer.seek(tp, starts[tp])
        if starts:
            await self._commit(starts)

    async def _commit(self, starts: Mapping[TopicPartition, int]) -> None:
        """Make the choice last, for a worker that dies before its first message.

        Also for partitions that other members have just been given: they may ask after us, and
        would take theirs for added ones. The public commit() refuses those.
        """
        assignment = self._consumer._subscription.subscription.assignment
        offsets = {tp: OffsetAndMetadata(offset, "") for tp, offset in starts.items()}
        committing = self._consumer._coordinator.commit_offsets(assignment, offsets)
        try:
            await within(committing, COMMIT_SECONDS)
        except (KafkaError, TimeoutError) as error:
            # The committer writes the same within a second, unless the group moves on again.
            log.warning("first offsets not committed", error=str(error) or "no answer")


def generation_of(consumer: Any) -> int:
    """The group's generation that this member belongs to; negative when it lost its membership."""
    return int(consumer._coordinator.generation)


def state_of(consumer: Any, tp: TopicPartition) -> Any:
    """The state of an assigned partition: the public position() waits, this does not.

    None when it is not assigned.
    """
    subscription = consumer._subscription.subscription
    assignment = subscription.assignment if subscription is not None else None
    return assignment.state_value(tp) if assignment is not None else None
