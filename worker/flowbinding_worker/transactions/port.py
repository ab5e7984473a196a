"""The seam between the worker and Kafka's transactions.

`transactions_kafka` implements it on aiokafka; tests implement it in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from flowbinding_api.reasons import Reason
from flowbinding_worker.delivery.spool_codec import Message
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position


class TopicRefusedError(KafkaUnavailableError):
    """Nothing can be written to one topic; the others may be fine.

    Args:
        topic: Which.
        message: One sentence.
        reason: `TopicMissing` or `TopicUnauthorized`.
    """

    def __init__(self, topic: str, message: str, reason: Reason) -> None:
        super().__init__(message, reason=reason)
        self.topic = topic


class TransactionPort(Protocol):
    """The transactions of one source partition.

    They share a transactional id. Whoever opened it last is the only one who can write with it:
    Kafka refuses everybody else's records and offsets.
    """

    async def open(self) -> Position | None:
        """Become the one who writes, and see what the last one has left.

        A transaction that was under way, ours or another's, is over when this returns: committed if
        its end was on its way, aborted otherwise. May be called again after any error.

        Returns:
            What the group has committed for the partition; None when it has nothing.

        Raises:
            KafkaUnavailableError: Try again later.
        """

    async def commit(self, records: Sequence[Message], position: Position) -> None:
        """Write records, in this order, and the partition's offset: all of it or nothing.

        After any error, a cancellation included, it is not known which of the two it was, and
        nothing more can be written before the next `open`.

        Raises:
            RecordTooLargeError: One of the records will never be taken in this company, or at all.
            TopicRefusedError: Nothing can be written to a topic.
            KafkaUnavailableError: Anything else, being replaced by another worker included.
        """

    async def close(self) -> None:
        """Disconnect, within bounds. What is not committed is aborted by whoever opens next."""
