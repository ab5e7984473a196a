"""Kafka through aiokafka: the consumer.

aiokafka 0.14 is kept on a short lead (worker-engine.md, 2.4, 2.5 and 3.3 name its traps): no
automatic commits, no pausing, one assignor, our own bounds on every wait, and three of its private
attributes, each in one small function here or in `kafka_listener`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CommitFailedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
)
from aiokafka.protocol.group import LeaveGroupRequest

from flowbinding_api import FlowBinding
from flowbinding_api.kafka import Kafka
from flowbinding_api.kafka_options import client_options
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import StartFrom
from flowbinding_worker.files import Files
from flowbinding_worker.kafka.errors import translated
from flowbinding_worker.kafka.listener import Listener, generation_of, state_of
from flowbinding_worker.kafka.login import refused_login
from flowbinding_worker.kafka.port import (
    Batch,
    ConsumerBrokenError,
    KafkaUnavailableError,
    MembershipLostError,
    Position,
    Rebalances,
    RebalancingError,
    RecordUnreadableError,
)
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.waiting import within

log = structlog.get_logger(__name__)

CONNECT_SECONDS = 30
STOP_SECONDS = 4
GOODBYE_SECONDS = 1
FETCH_BYTES = 256 * 1024
UNPLACED_SECONDS = 0.02
"""How long to wait for positions after an assignment, before looking at them again."""
DAY_MS = 24 * 3600 * 1000
REBALANCE_MARGIN_SECONDS = 30
"""Beyond the wait for what cannot be handed over: trying that once more as it ends, with a commit
under way and another (5 s each), a read, and two writes with words that close registers (2 s each);
then the last commit; a heartbeat."""

ClientOptions = Callable[[], dict[str, Any]]


def kafka_client_options(kafka: Kafka, files: Files) -> dict[str, Any]:
    """TLS, SASL and addresses for any aiokafka client; reads the Secrets anew.

    Raises:
        FlowBindingError: A Secret is missing or unusable.
    """
    user = kafka.sasl.username_secret_ref if kafka.sasl is not None else None
    return client_options(kafka, lambda ref: (files.name if ref == user else files.secret)(ref))


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """What the consumer needs to know of a binding.

    Attributes:
        topics: To subscribe to.
        group: Consumer group.
        start_from: Where a group without commits begins.
        drain_seconds: How long a rebalance may wait for running calls.
        client_id: Shows in the broker's logs and in group descriptions.
    """

    topics: tuple[str, ...]
    group: str
    start_from: StartFrom
    drain_seconds: float
    client_id: str

    @classmethod
    def of(cls, binding: FlowBinding, drain_seconds: float, instance: str) -> ConsumerSettings:
        """From a manifest."""
        source = binding.spec.source
        return cls(
            topics=source.all_topics,
            group=binding.consumer_group,
            start_from=source.start_from,
            drain_seconds=drain_seconds,
            client_id=f"flowbinding-{instance}",
        )

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments of AIOKafkaConsumer."""
        rebalance = self.drain_seconds + REBALANCE_MARGIN_SECONDS
        return {
            "group_id": self.group,
            "client_id": self.client_id,
            "auto_offset_reset": "earliest",
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            # Exactly one: aiokafka sends a JoinGroup for each.
            "partition_assignment_strategy": (StickyPartitionAssignor,),
            "session_timeout_ms": 45_000,
            # A member learns of a rebalance with its next heartbeat, and all wait for it.
            "heartbeat_interval_ms": 1_000,
            "rebalance_timeout_ms": int(rebalance * 1000),
            # It bounds JoinGroup too, which lasts as long as the others' drain.
            "request_timeout_ms": int((rebalance + 10) * 1000),
            # Checked between polls only, and leaving the group on expiry has failed to come back.
            "max_poll_interval_ms": DAY_MS,
            "max_partition_fetch_bytes": FETCH_BYTES,
            "consumer_timeout_ms": 50,
            "metadata_max_age_ms": 60_000,
        }


class KafkaConsumer:
    """A member of the consumer group; implements `ConsumerPort`.

    Args:
        settings: Of the binding.
        options: Gives the client options; called for every start.
    """

    def __init__(self, settings: ConsumerSettings, options: ClientOptions) -> None:
        self._settings = settings
        self._options = options
        self._consumer: Any = None
        self._listener: Listener | None = None
        self._suspects: set[TopicPartition] = set()
        self._suspects_of = 0
        self._turns = 0

    async def start(self, listener: Rebalances) -> None:
        """Connect and join the group; see `ConsumerPort`."""
        options = self._options()
        consumer = AIOKafkaConsumer(**options, **self._settings.aiokafka())
        try:
            with translated():
                await within(consumer.start(), CONNECT_SECONDS)
                await self._require_topics(consumer)
        except KafkaUnavailableError as error:
            await _stop(consumer)
            raise (await refused_login(options) or error) from None
        except BaseException:
            await _stop(consumer)
            raise
        self._consumer = consumer
        latest = self._settings.start_from is StartFrom.LATEST
        self._listener = Listener(listener, consumer, latest=latest)
        consumer.subscribe(list(self._settings.topics), listener=self._listener)

    async def stop(self) -> bool:
        """Leave the group and disconnect; see `ConsumerPort`."""
        consumer, self._consumer = self._consumer, None
        clean = consumer is None or await _stop(consumer)
        if not clean:
            log.warning("left in the middle: the group may notice after the session timeout only")
        return clean

    async def poll(self, wanted: Mapping[Partition, int], seconds: float) -> Sequence[Batch]:
        """Fetched records; see `ConsumerPort`."""
        listener: Any = self._listener
        generation = listener.generation
        if not wanted:
            with translated():
                # As getmany does first: aiokafka keeps errors until somebody has seen them.
                self._consumer._coordinator.check_errors()
            listener.raise_failure()
            return []
        if self._suspects_of != generation:
            self._suspects_of = generation
            self._suspects.clear()
        asked, most = self._asked(wanted)
        if not asked:
            with translated():
                self._consumer._coordinator.check_errors()
            listener.raise_failure()
            await asyncio.sleep(min(seconds, UNPLACED_SECONDS))
            return []
        if len(asked) < len(wanted):
            # Not at the cost of those that are not asked for this time.
            seconds = min(seconds, UNPLACED_SECONDS)
        before = {tp: state_of(self._consumer, tp).position for tp in asked}
        try:
            with translated():
                found = await self._consumer.getmany(
                    *asked, timeout_ms=int(seconds * 1000), max_records=most
                )
        except (ValueError, CorruptRecordException) as error:
            if generation != listener.generation or not listener.settled:
                raise ConsumerBrokenError("a record could not be read after a rebalance") from error
            self._put_back(before)
            if (unreadable := self._suspect(_culprit(error, asked))) is not None:
                raise unreadable from None
            return []
        # No await from here to the end.
        listener.raise_failure()
        if generation != listener.generation or not listener.settled:
            self._read_again(found)
            return []
        return [b for tp in asked if (b := self._batch(tp, found.get(tp, []))) is not None]

    def _asked(self, wanted: Mapping[Partition, int]) -> tuple[list[TopicPartition], int]:
        """Which partitions to ask for, and how many messages at most.

        Only those whose position is known, so that it can be taken back; and every other time one
        with a record that cannot be read, alone and record by record, to find out which it is.
        """
        placed = {}
        for partition, most in wanted.items():
            tp = TopicPartition(*partition)
            state = state_of(self._consumer, tp)
            if state is not None and state.has_valid_position:
                placed[tp] = most
        self._turns += 1
        suspects = [tp for tp in placed if tp in self._suspects]
        good = [tp for tp in placed if tp not in self._suspects]
        if suspects and (self._turns % 2 or not good):
            return [suspects[self._turns // 2 % len(suspects)]], 1
        return good, min((placed[tp] for tp in good), default=0)

    def _put_back(self, before: Mapping[TopicPartition, int]) -> None:
        """Take the positions back: aiokafka has dropped what it had read of other partitions."""
        for tp, position in before.items():
            state = state_of(self._consumer, tp)
            if state is None or not state.has_valid_position or state.position == position:
                continue
            self._consumer.seek(tp, position)

    def _suspect(self, tp: TopicPartition) -> RecordUnreadableError | None:
        """What to do about a partition with a record that cannot be read.

        Returns:
            None while it is not known which record that is.
        """
        if tp not in self._suspects:
            self._suspects.add(tp)
            return None
        self._suspects.discard(tp)
        position = state_of(self._consumer, tp).position
        return RecordUnreadableError(Partition(*tp), position)

    async def commit(self, positions: Mapping[Partition, Position]) -> None:
        """Commit offsets with metadata; see `ConsumerPort`."""
        consumer = self._consumer
        if consumer is None:
            raise RebalancingError("not a member of the group at the moment")
        if generation_of(consumer) < 0:
            # aiokafka would send it without a generation, which the broker takes from anybody
            # while the group is empty.
            raise MembershipLostError("the group has gone on without this worker")
        assigned = consumer.assignment()
        # aiokafka refuses all of them for one that is not assigned.
        offsets = {
            tp: tuple(position)
            for p, position in positions.items()
            if (tp := TopicPartition(*p)) in assigned
        }
        if not offsets:
            raise RebalancingError("none of the partitions is assigned at the moment")
        try:
            with translated():
                await consumer.commit(offsets)
        except CommitFailedError as error:
            if isinstance(error.__cause__, RebalanceInProgressError):
                raise RebalancingError("a rebalance is going on") from None
            raise MembershipLostError("the group has gone on without this worker") from None
        except IllegalStateError as error:
            # Between two assignments.
            raise RebalancingError(str(error)) from None

    async def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, Position]:
        """The group's committed offsets with metadata; see `ConsumerPort`."""
        consumer = self._member()
        with translated():
            # The public committed() gives the offset only.
            found = await consumer._coordinator.fetch_committed_offsets(
                [TopicPartition(*p) for p in partitions]
            )
        return {Partition(*tp): Position(o.offset, o.metadata) for tp, o in found.items()}

    def seek(self, partition: Partition, offset: int) -> None:
        """Fetch from `offset` on; see `ConsumerPort`."""
        self._member().seek(TopicPartition(*partition), offset)

    def partitions(self) -> int:
        """How many partitions all topics have together; see `ConsumerPort`."""
        consumer = self._consumer
        if consumer is None:
            return 0
        return sum(len(consumer.partitions_for_topic(t) or ()) for t in self._settings.topics)

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """End offsets, asked of the brokers; see `ConsumerPort`."""
        consumer = self._member()
        with translated():
            found = await consumer.end_offsets([TopicPartition(*p) for p in partitions])
        return {Partition(*tp): offset for tp, offset in found.items()}

    def _member(self) -> Any:
        """The consumer; a late callback of one that is being stopped finds none."""
        if self._consumer is None:
            raise KafkaUnavailableError("not a member of the group at the moment")
        return self._consumer

    async def _require_topics(self, consumer: Any) -> None:
        """Subscribing to a topic that is not there would wait without a word."""
        known = await within(consumer.topics(), CONNECT_SECONDS)
        missing = [topic for topic in self._settings.topics if topic not in known]
        if missing:
            raise KafkaUnavailableError(
                f"topic {', '.join(missing)}: does not exist, or this user may not see it",
                reason=Reason.TOPIC_MISSING,
            )

    def _batch(self, tp: TopicPartition, records: Sequence[Any]) -> Batch | None:
        state = state_of(self._consumer, tp)
        if state is None or not state.has_valid_position:
            return None
        partition = Partition(tp.topic, tp.partition)
        return Batch(
            partition, [_record(partition, r) for r in records], state.position, state.highwater
        )

    def _read_again(self, found: Mapping[TopicPartition, Sequence[Any]]) -> None:
        """A rebalance came in between: nobody tracks these records yet."""
        for tp, records in found.items():
            if records and tp in self._consumer.assignment():
                self._consumer.seek(tp, records[0].offset)


def _culprit(error: BaseException, asked: Sequence[TopicPartition]) -> TopicPartition:
    """The partition whose record could not be read. aiokafka knows it, and its error does not.

    Raises:
        ConsumerBrokenError: It cannot be found out.
    """
    for frame, _ in walk_tb(error.__traceback__):
        tp = frame.f_locals.get("tp")
        if frame.f_code.co_name == "fetched_records" and tp in asked:
            return tp
    if len(asked) == 1:
        return asked[0]
    raise ConsumerBrokenError("a record could not be read") from error


def _record(partition: Partition, record: Any) -> Record:
    return Record(
        partition=partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
        # Messages of the oldest format have none.
        timestamp_ms=-1 if record.timestamp is None else record.timestamp,
        timestamp_type="LogAppendTime" if record.timestamp_type == 1 else "CreateTime",
    )


async def _stop(consumer: Any) -> bool:
    """Stop within bounds: a JoinGroup under way may last as long as another member's drain."""
    try:
        await within(consumer.stop(), STOP_SECONDS)
    except (TimeoutError, KafkaError):
        with suppress(TimeoutError, KafkaError):
            await within(_say_goodbye(consumer), GOODBYE_SECONDS)
        return False
    return True


async def _say_goodbye(consumer: Any) -> None:
    """Leave the group on the connection for fetches: the other waits for the answer to JoinGroup.

    The group would give partitions to this member, and wait for its session to end.
    """
    coordinator = consumer._coordinator
    if coordinator is not None and coordinator.member_id and coordinator.coordinator_id is not None:
        request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
        await consumer._client.send(coordinator.coordinator_id, request)
    await consumer._client.close()
