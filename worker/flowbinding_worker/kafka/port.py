"""The worker's seams to Kafka: what the engine needs of a consumer and of a producer.

`kafka` implements them on aiokafka; tests implement them in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason
from flowbinding_worker.ports import Partition, Record

Headers = Sequence[tuple[str, bytes | None]]


class KafkaUnavailableError(FlowBindingError):
    """Kafka does not let us do it; trying again later may work, perhaps after a repair."""

    reason = Reason.KAFKA_UNREACHABLE
    retriable = True


class ConsumerBrokenError(FlowBindingError):
    """The consumer is beyond recovery and has to be made anew."""

    reason = Reason.KAFKA_UNREACHABLE
    retriable = True


class RebalancingError(FlowBindingError):
    """Not during a rebalance; it is tried again after it."""

    reason = Reason.KAFKA_UNREACHABLE
    retriable = True


class MembershipLostError(FlowBindingError):
    """The group went on without us: our partitions may be somebody else's already."""

    reason = Reason.KAFKA_UNREACHABLE
    retriable = True


class RecordUnreadableError(FlowBindingError):
    """The client cannot parse a record: the broker gives the same bytes again and again.

    Args:
        partition: Where it is.
        position: The offset from which on nothing can be read.
    """

    reason = Reason.RECORD_UNREADABLE

    def __init__(self, partition: Partition, position: int) -> None:
        super().__init__(
            f"{partition.topic}-{partition.partition}: the record at or next after offset"
            f" {position} cannot be read (a header's name that is no UTF-8, or broken bytes); this"
            " partition waits there: stop the workers and move the group's offset beyond it"
        )
        self.partition = partition
        self.position = position


class RecordTooLargeError(FlowBindingError):
    """The broker, or the topic, does not take a record of this size."""

    reason = Reason.OUTPUT_UNAVAILABLE


class Position(NamedTuple):
    """A committed offset with its metadata."""

    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one poll found out about one partition.

    Attributes:
        partition: Which.
        records: In the order of their offsets; may be empty.
        position: The offset that is fetched next, beyond gaps.
        end: The partition's end offset as of the last fetch, if known.
    """

    partition: Partition
    records: Sequence[Record]
    position: int
    end: int | None


class Rebalances(Protocol):
    """Told when partitions come and go. The group waits for both calls."""

    async def revoked(
        self, partitions: Collection[Partition], *, lost: bool, generation: int
    ) -> None:
        """Partitions go away, and may come back with the next `assigned`.

        Args:
            partitions: All that we had.
            lost: Somebody else may have them already.
            generation: The group's, in which we had them.
        """

    async def assigned(self, partitions: Collection[Partition], *, generation: int) -> None:
        """Partitions are ours from now on; nothing of them is polled before this returns.

        Args:
            partitions: All that we have now.
            generation: The group's: it grows by one each time that partitions are handed out.
        """


class ConsumerPort(Protocol):
    """A member of a consumer group."""

    async def start(self, listener: Rebalances) -> None:
        """Connect and join the group.

        Raises:
            KafkaUnavailableError: Unreachable, unauthorized, or a topic is missing. May be called
                again.
        """

    async def stop(self) -> bool:
        """Leave the group and disconnect; `Rebalances.revoked` is not called.

        Returns:
            False when it did not end in time: it may still be a member of the group.
        """

    async def poll(self, wanted: Mapping[Partition, int], seconds: float) -> Sequence[Batch]:
        """Fetched records of wanted partitions, at most as many as wanted of each.

        Waits up to `seconds` for any, or until the end of a rebalance; not at all when nothing
        is wanted, which is how to notice errors then. The caller tracks the batches before it does
        anything else.

        Raises:
            KafkaUnavailableError: Try again later.
            RecordUnreadableError: Nothing more of this partition can be read; do not want it again
                before it is assigned anew. Nothing of the others is lost.
            ConsumerBrokenError: Stop it and start another.
        """

    async def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets with metadata. May wait for ever; the caller bounds it.

        Raises:
            MembershipLostError: The commit is void, now and later.
            RebalancingError: Try again soon.
            KafkaUnavailableError: Try again later.
        """

    async def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, Position]:
        """The group's committed offsets; partitions without one are left out.

        Raises:
            KafkaUnavailableError: Try again later.
        """

    def partitions(self) -> int:
        """How many partitions all topics have together, as far as known; 0 before `start`."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Fetch an assigned partition from `offset` on; for use in `Rebalances.assigned`."""

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """End offsets, asked of the brokers.

        Raises:
            KafkaUnavailableError: Try again later.
        """


class ProducerPort(Protocol):
    """Writes records and waits for their acknowledgement by all replicas."""

    async def stop(self) -> None:
        """Flush, within bounds, and disconnect."""

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        """Write one record; returns when it is acknowledged, however long that takes.

        Args:
            topic: Where to.
            key: Decides the partition unless it is None.
            value: None for a tombstone.
            headers: May repeat names.
            partition: For a null key; taken modulo the topic's partitions. None: any.

        Raises:
            RecordTooLargeError: It will never be taken.
            KafkaUnavailableError: It was not written; try again later.
        """
