"""Where messages end: results and dead letters, written until Kafka acknowledges them.

A record that cannot be written is tried for ever. Its message stays unfinished meanwhile, so that
nothing is committed past it; its slot stays taken, so that no further flow runs pile up behind it;
and the worker says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from random import Random

from flowbinding_api import FlowBinding
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason
from flowbinding_worker.headers import (
    CONNECT_PREFIX,
    OWN_PREFIX,
    TRACE,
    TRUNCATED,
    Identity,
    dead_letter_headers,
    result_headers,
)
from flowbinding_worker.job import Job
from flowbinding_worker.kafka_port import Headers, ProducerPort, RecordTooLargeError
from flowbinding_worker.ports import Failure, ProcessingError, Record, Stage
from flowbinding_worker.retry import Backoff
from flowbinding_worker.trouble import Trouble

SLOW_SECONDS = 3.0
"""A record without acknowledgement for so long is worth a word."""

_BACKOFF = Backoff(initial=0.5, cap=5.0)


class Sink:
    """Writes records until they are acknowledged.

    Args:
        part: Names the sink in `trouble`.
        reason: What keeps the worker from working while the sink does not take records.
        producer: Writes one record.
        trouble: Where to say so.
    """

    def __init__(self, part: str, reason: Reason, producer: ProducerPort, trouble: Trouble) -> None:
        self._part = part
        self._reason = reason
        self._producer = producer
        self._trouble = trouble
        self._draw = Random()  # noqa: S311 - jitter, not a secret

    async def write(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        """Write one record; returns when it is acknowledged.

        Raises:
            RecordTooLargeError: It will never be taken.
        """
        failures = 0
        while True:
            try:
                await self._send(topic, key, value, headers, partition)
            except RecordTooLargeError:
                raise
            except FlowBindingError as error:
                failures += 1
                self._trouble.report(self._part, self._reason, str(error))
                await asyncio.sleep(_BACKOFF.delay(failures, 0.5 + self._draw.random() / 2))
            else:
                self._trouble.clear(self._part)
                return

    async def refused(self, message: str) -> None:
        """Say that a record cannot be written as it is, and wait before it is tried again."""
        self._trouble.report(self._part, self._reason, message)
        await asyncio.sleep(_BACKOFF.cap)

    async def _send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        message = f"topic {topic}: no acknowledgement for {SLOW_SECONDS:.0f} s"
        slow = loop.call_later(
            SLOW_SECONDS, self._trouble.report, self._part, self._reason, message
        )
        try:
            await self._producer.send(topic, key, value, headers, partition)
        finally:
            slow.cancel()


class Output:
    """Writes results.

    Args:
        topic: Where to.
        who: Who writes.
        producer: Writes one record.
        trouble: Where to say that it cannot.
    """

    def __init__(self, topic: str, who: Identity, producer: ProducerPort, trouble: Trouble) -> None:
        self._topic = topic
        self._who = who
        self._sink = Sink("output", Reason.OUTPUT_UNAVAILABLE, producer, trouble)

    async def write(self, record: Record, key: bytes | None, value: bytes) -> None:
        """Write the result of one message; returns when it is acknowledged.

        Raises:
            ProcessingError: POISON, when no broker will ever take it.
        """
        try:
            await self._sink.write(self._topic, key, value, result_headers(self._who, record))
        except RecordTooLargeError:
            raise ProcessingError(
                f"the result has {len(value)} bytes, which topic {self._topic} does not take",
                failure=Failure.POISON,
                stage=Stage.OUTPUT,
                reason="ResultTooLarge",
            ) from None


class DeadLetters:
    """Writes messages that cannot be processed, byte for byte, with the reason in their headers.

    Args:
        binding: Names the topics.
        who: Who writes.
        producer: Writes one record.
        trouble: Where to say that it cannot.
    """

    def __init__(
        self, binding: FlowBinding, who: Identity, producer: ProducerPort, trouble: Trouble
    ) -> None:
        self._binding = binding
        self._who = who
        self._sink = Sink("deadLetter", Reason.DEAD_LETTER_UNAVAILABLE, producer, trouble)

    async def write(self, job: Job, error: ProcessingError) -> bool:
        """Write one dead letter; returns when it is acknowledged.

        Returns:
            False when dead letters are switched off.
        """
        record = job.record
        topic = self._binding.dead_letter_topic(record.partition.topic)
        if topic is None:
            return False
        headers = dead_letter_headers(self._who, job, error, time.time_ns() // 1_000_000)
        # The source partition places a null key; a key places itself.
        partition = record.partition.partition
        while True:
            for value, some in _ever_smaller(record, headers):
                try:
                    await self._sink.write(topic, record.key, value, some, partition)
                except RecordTooLargeError:
                    continue
                return True
            await self._sink.refused(f"topic {topic} takes not even the key of a dead letter")


def _ever_smaller(record: Record, headers: Headers) -> Iterator[tuple[bytes | None, Headers]]:
    """The dead letter, and what is left of it when the topic takes no record of its size."""
    yield record.value, headers
    short = [h for h in headers if h[0] != TRACE]
    yield record.value, short
    cut = [*short, (TRUNCATED, b"value")]
    yield None, cut
    ours = [h for h in cut if h[0].startswith((CONNECT_PREFIX, OWN_PREFIX))]
    yield None, ours
