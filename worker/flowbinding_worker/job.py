"""A message on its way through the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowbinding_worker.ports import Partition, Record
from flowbinding_worker.tracker import Tracker

OVERHEAD_BYTES = 512
"""What a message weighs besides its bytes, so that empty ones count too."""


def _nothing() -> None:
    """A message that no run holds has nothing to release."""


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
        failing_since: The same on `FlowControl.clock`, for `retry.maxElapsedSeconds`.
        held: Another worker runs it, so that it waits.
        over: Another worker has finished it, so that it needs no run.
        due: When it may run again, in steady seconds; 0 when it may at once.
        deferred: Its result or dead letter waits on disk: it holds no slot, and its chain has gone
            on without it; it is not done before that is written.
        release: Makes it deferred. Nothing happens when it is.
    """

    record: Record
    tracker: Tracker
    attempts: int = 0
    throttled: int = 0
    spent_throttles: int = 0
    spent_seconds: float = 0.0
    first_failure_ms: int = 0
    failing_since: float | None = None
    held: bool = False
    over: bool = False
    due: float = 0.0
    deferred: bool = False
    release: Callable[[], None] = _nothing

    @property
    def partition(self) -> Partition:
        """Where it was read."""
        return self.record.partition

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, about."""
        record = self.record
        return OVERHEAD_BYTES + len(record.key or b"") + len(record.value or b"")
