"""Kafka's transactions in memory: one epoch for each transactional id, all or nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position, RecordTooLargeError
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.transactions.lane import Waiting
from flowbinding_worker.transactions.port import TopicRefusedError

P0 = Partition("in", 0)


class Fault(Enum):
    """What happens to the next call."""

    NONE = auto()
    LOST = auto()
    """It fails, and nothing has happened."""
    UNKNOWN = auto()
    """It fails, and has happened nevertheless."""


@dataclass
class FakeCoordinator:
    """What the broker knows of one transactional id."""

    epoch: int = 0
    position: Position | None = None
    written: list[Message] = field(default_factory=list)
    transactions: list[int] = field(default_factory=list)
    """How many records each had."""
    limit: int = 1 << 30
    refused: dict[str, TopicRefusedError] = field(default_factory=dict)

    @property
    def values(self) -> list[bytes | None]:
        return [message.value for message in self.written]


class FakePort:
    """A producer; implements `TransactionPort`."""

    def __init__(self, coordinator: FakeCoordinator) -> None:
        self.coordinator = coordinator
        self.faults: deque[Fault] = deque()
        self.open_faults: deque[Fault] = deque()
        self.gate: asyncio.Event | None = None
        self.closed = False
        self._epoch: int | None = None

    async def open(self) -> Position | None:
        await asyncio.sleep(0)
        self._epoch = None
        fault = self.open_faults.popleft() if self.open_faults else Fault.NONE
        if fault is Fault.LOST:
            raise KafkaUnavailableError("nobody there")
        self.coordinator.epoch += 1
        if fault is Fault.UNKNOWN:
            raise KafkaUnavailableError("no answer")
        self._epoch = self.coordinator.epoch
        return self.coordinator.position

    async def commit(self, records: Sequence[Message], position: Position) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        known, epoch, self._epoch = self.coordinator, self._epoch, None
        fault = self.faults.popleft() if self.faults else Fault.NONE
        if epoch != known.epoch:
            raise KafkaUnavailableError("fenced")
        for record in records:
            if record.topic in known.refused:
                raise known.refused[record.topic]
            if len(record.value or b"") > known.limit:
                raise RecordTooLargeError("too large")
        if fault is Fault.LOST:
            raise KafkaUnavailableError("gone")
        known.written += records
        known.transactions.append(len(records))
        known.position = position
        if fault is Fault.UNKNOWN:
            raise KafkaUnavailableError("gone")
        self._epoch = epoch

    async def close(self) -> None:
        self.closed = True


def record(offset: int) -> Record:
    return Record(P0, offset, None, b"m%d" % offset, (), 1_000)


def job_of(offset: int, tracker: Tracker) -> Job:
    return Job(record(offset), tracker)


def waiting(job: Job, topic: str = "out", value: bytes | None = None) -> Waiting:
    text = b"r%d" % job.record.offset if value is None else value
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    return Waiting(job, deque([Message(topic, None, text, ())]), done)
