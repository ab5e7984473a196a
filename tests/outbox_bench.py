"""An outbox on a Kafka in memory that takes records as told."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flowbinding_api.reasons import Reason
from flowbinding_api.spec import Ordering
from flowbinding_worker.delivery.outbox import Outbox
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Spool, open_spool
from flowbinding_worker.delivery.spool_codec import Kind, Message
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import KafkaUnavailableError, RecordTooLargeError
from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.trouble import Trouble


class TooLargeError(Exception):
    """Of the tests."""


@dataclass
class Kafka:
    """Takes records as told; `taken` is what it has acknowledged, in order."""

    taken: list[Message] = field(default_factory=list)
    asked: list[Message] = field(default_factory=list)
    refusing: bool = False
    silent: asyncio.Event | None = None
    """While it is not set, records are taken but not acknowledged."""
    script: list[str] = field(default_factory=list)
    busy: int = 0

    async def send(self, message: Message) -> None:
        self.busy += 1
        try:
            await self.take(message)
        finally:
            self.busy -= 1

    async def take(self, message: Message) -> None:
        self.asked.append(message)
        await asyncio.sleep(0)
        step = self.script.pop(0) if self.script else "ack"
        if self.silent is not None:
            await self.silent.wait()
        if "slow" in step:
            await asyncio.sleep(0.03)
        if self.refusing or "fail" in step:
            raise KafkaUnavailableError("not there")
        if message.value == b"large":
            raise RecordTooLargeError("too large")
        self.taken.append(message)

    @property
    def values(self) -> list[bytes | None]:
        return [message.value for message in self.taken]


def job(offset: int = 0, key: bytes | None = b"k", partition: int = 0) -> Job:
    return Job(Record(Partition("in", partition), offset, key, b"v", (), 1_000), Tracker())


def message(value: bytes, key: bytes | None = b"k", topic: str = "out") -> Message:
    return Message(topic, key, value, [])


def make(kafka: Kafka, spool: Spool, trouble: Trouble, ordering: Ordering = Ordering.KEY) -> Outbox:
    return Outbox(
        Kind.RESULT,
        Reason.OUTPUT_UNAVAILABLE,
        kafka.send,
        lambda _: TooLargeError(),
        ordering,
        spool,
        trouble,
    )


class Bench:
    """An outbox on a directory; a new one on the same directory is the worker after a restart."""

    def __init__(self, folder: Path, limit: int = 1 << 20) -> None:
        self.kafka = Kafka()
        self.trouble = Trouble()
        self.lost = Counter[str]()
        self.spool = open_spool(folder, "g", limit, lambda: self.lost.update("x"))
        self.outbox = make(self.kafka, self.spool, self.trouble)
        self.released: list[int] = []

    def submit(self, offset: int, value: bytes | None = None, key: bytes | None = b"k") -> Delivery:
        what = job(offset, key)
        what.release = lambda: self.released.append(offset)
        return self.outbox.submit(what, message(value or b"r%d" % offset, key))

    async def close(self) -> None:
        await self.outbox.close()
        await self.spool.close()


async def until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - conditions of any kind, not events
            await asyncio.sleep(0.001)
