"""A message on its way through the worker."""

from __future__ import annotations

from dataclasses import dataclass

from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.tracker import Tracker

OVERHEAD_BYTES = 512
"""What a message weighs besides its bytes, so that empty ones count too."""


@dataclass(slots=True, eq=False)
class Job:
    """One message, and what happened to it so far.

    Attributes:
        record: The message.
        tracker: Of the assignment in which it was fetched: the fence against late outcomes.
        attempts: Runs that count against `retry.maxAttempts`.
        throttled: Times in a row that the server asked for less.
        spent_throttles: Throttled runs since one cost an attempt.
        spent_seconds: Seconds waited because of them.
        first_failure_ms: When it failed first, in milliseconds since the epoch; 0 before that.
    """

    record: Record
    tracker: Tracker
    attempts: int = 0
    throttled: int = 0
    spent_throttles: int = 0
    spent_seconds: float = 0.0
    first_failure_ms: int = 0

    @property
    def partition(self) -> Partition:
        """Where it was read."""
        return self.record.partition

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about."""
        record = self.record
        return OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")
