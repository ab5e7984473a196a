"""Where messages end: results and dead letters, delivered until Kafka acknowledges them.

A record that cannot be written is never given up. Its message stays unfinished meanwhile, so that
nothing is committed past it. See `outbox` for how records wait.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from flowbinding_api import FlowBinding
from flowbinding_api.headers import is_ours
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import Envelope
from flowbinding_worker.delivery.headers import (
    TRACES,
    TRUNCATED,
    Identity,
    dead_letter_headers,
    result_headers,
)
from flowbinding_worker.delivery.outbox import Outbox
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Spool
from flowbinding_worker.delivery.spool_codec import Kind, Message
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import KafkaUnavailableError, ProducerPort, RecordTooLargeError
from flowbinding_worker.ports import Failure, ProcessingError, Stage
from flowbinding_worker.transactions.exactly_once import Transactions
from flowbinding_worker.transactions.outbox import TransactionOutbox
from flowbinding_worker.trouble import Trouble

CLOUD_EVENT = "application/cloudevents+json"


@dataclass(frozen=True, slots=True)
class Writing:
    """What both sinks write with.

    Attributes:
        binding: Names the topics.
        who: Who writes.
        producer: Writes one record.
        spool: Where records wait while that is not possible.
        trouble: Where to say so.
        transactions: Write instead, all or nothing; None: results are written at least once.
    """

    binding: FlowBinding
    who: Identity
    producer: ProducerPort
    spool: Spool
    trouble: Trouble
    transactions: Transactions | None = None

    async def send(self, message: Message) -> None:
        """Write one record; see `ProducerPort.send`."""
        await self.producer.send(
            message.topic, message.key, message.value, message.headers, message.partition
        )


class Output:
    """Writes results.

    Args:
        envelope: What they are wrapped in.
        writing: What to write with.
    """

    def __init__(self, envelope: Envelope, writing: Writing) -> None:
        self._content_type = CLOUD_EVENT if envelope is Envelope.CLOUD_EVENTS else None
        self._who = writing.who
        self._outbox = (
            Outbox(
                Kind.RESULT,
                Reason.OUTPUT_UNAVAILABLE,
                writing.send,
                _too_large,
                writing.binding.spec.concurrency.ordering,
                writing.spool,
                writing.trouble,
            )
            if writing.transactions is None
            else TransactionOutbox(writing.transactions, lambda message: (message,), _too_large)
        )
        self.resume = self._outbox.resume
        self.close = self._outbox.close

    def write(self, job: Job, key: bytes | None, value: bytes, topic: str) -> Delivery:
        """Write the result of one message.

        Records for several topics wait for none but their own; those of one key and one topic stay
        in order.

        `Delivery.done` raises ProcessingError (POISON) when no broker will ever take it.
        """
        headers = result_headers(self._who, job.record, self._content_type)
        return self._outbox.submit(job, Message(topic, key, value, headers))


class DeadLetters:
    """Writes messages that cannot be processed, byte for byte, with the reason in their headers.

    Args:
        writing: What to write with.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._style = writing.binding.spec.dead_letter.header_style
        self._outbox = (
            Outbox(
                Kind.DEAD_LETTER,
                Reason.DEAD_LETTER_UNAVAILABLE,
                self._send,
                _too_large,
                writing.binding.spec.concurrency.ordering,
                writing.spool,
                writing.trouble,
            )
            if writing.transactions is None
            else TransactionOutbox(writing.transactions, _ever_smaller, None)
        )
        self.resume = self._outbox.resume
        self.close = self._outbox.close

    def write(self, job: Job, error: ProcessingError) -> Delivery | None:
        """Write one dead letter; None when dead letters are switched off."""
        record = job.record
        topic = self._writing.binding.dead_letter_topic(record.partition.topic)
        if topic is None:
            return None
        now_ms = time.time_ns() // 1_000_000
        headers = dead_letter_headers(self._writing.who, job, error, now_ms, self._style)
        # The source partition places a null key; a key places itself.
        message = Message(topic, record.key, record.value, headers, record.partition.partition)
        return self._outbox.submit(job, message, error.reason)

    async def _send(self, message: Message) -> None:
        """Write a dead letter, or what is left of it when the topic takes none of its size."""
        for smaller in _ever_smaller(message):
            try:
                await self._writing.send(smaller)
            except RecordTooLargeError:
                continue
            return
        raise KafkaUnavailableError(
            f"topic {message.topic} takes not even the key of a dead letter",
            reason=Reason.DEAD_LETTER_UNAVAILABLE,
        )


def _too_large(message: Message) -> ProcessingError:
    size = len(message.value or b"")
    return ProcessingError(
        f"the result has {size} bytes, which topic {message.topic} does not take",
        failure=Failure.POISON,
        stage=Stage.OUTPUT,
        reason="ResultTooLarge",
    )


def _ever_smaller(message: Message) -> Iterator[Message]:
    yield message
    short = [h for h in message.headers if h[0] not in TRACES]
    yield replace(message, headers=short)
    cut = [*short, (TRUNCATED, b"value")]
    yield replace(message, headers=cut, value=None)
    yield replace(message, headers=[h for h in cut if is_ours(h[0])], value=None)
