"""Stops a partition whose messages nearly all become dead letters.

A flow whose answers changed, or a producer that writes something else, would otherwise empty a
whole topic into the dead letters. Per partition, as Sentry's Arroyo does with its `DlqLimit`: what
one producer does to its partition is no reason to stop the others. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flowbinding_api.reasons import Reason
from flowbinding_worker.job import Job
from flowbinding_worker.ports import Partition
from flowbinding_worker.scheduler import Scheduler
from flowbinding_worker.trouble import Trouble

WINDOW = 200
"""Messages that are looked back upon."""
ENOUGH = 100
"""Fewer say nothing; and so many dead letters in a row are too many, whatever came before."""
TRIAL_SECONDS = 60.0


class FloodGuard:
    """What became of one partition's last messages."""

    def __init__(self) -> None:
        self._last: deque[bool] = deque(maxlen=WINDOW)
        self._dead = 0
        self._row = 0
        self._trial: Job | None = None
        self._next = 0.0
        self.stopped = False
        """Whether nothing but trials may run."""
        self.due: float | None = None
        """When the next trial may begin; None while one is admitted or runs."""

    @property
    def share(self) -> str:
        """The flood in words."""
        return f"{self._dead} of the last {len(self._last)} messages could not be processed"

    def began(self, job: Job, now: float) -> None:
        """A message runs; in a stopped partition it is a trial."""
        if self.stopped:
            self._trial = job
            self._next = max(self._next, now + TRIAL_SECONDS)

    def ended(self, job: Job, *, dead: bool, now: float) -> None:
        """A message succeeded or became a dead letter.

        Those that ran already when the partition stopped neither end that nor prolong it.
        """
        if self.stopped:
            if job is self._trial:
                self._tried(dead=dead, now=now)
            return
        if len(self._last) == WINDOW:
            self._dead -= self._last[0]
        self._last.append(dead)
        self._dead += dead
        self._row = self._row + 1 if dead else 0
        mostly = len(self._last) >= ENOUGH and 2 * self._dead > len(self._last)
        if mostly or self._row >= ENOUGH:
            self.stopped = True
            # The first trial is at once: a flood that is over shall cost no minute.
            self.due = now

    def skipped(self, job: Job, now: float) -> None:
        """A message was filtered out, or turned out not to be ours: it says nothing."""
        if self.stopped and job is self._trial:
            self._trial, self._next, self.due = None, now, now

    def parked(self, job: Job, due: float) -> None:
        """A message runs again at `due`; a trial need not wait for another minute then."""
        if self.stopped and job is self._trial:
            self._trial, self.due = None, due

    def _tried(self, *, dead: bool, now: float) -> None:
        self._trial = None
        if dead:
            self.due = max(now, self._next)
        else:
            self._last.clear()
            self._dead = self._row = 0
            self._next, self.stopped, self.due = 0.0, False, None


class Floods:
    """The guards of all partitions; stops their lanes in the scheduler and says so.

    Args:
        scheduler: Decides what runs.
        trouble: Where to report a stopped partition.
        enabled: `spec.deadLetter.floodGuard`.
    """

    def __init__(self, scheduler: Scheduler, trouble: Trouble, *, enabled: bool) -> None:
        self._scheduler = scheduler
        self._trouble = trouble
        self._enabled = enabled
        self._guards: dict[Partition, FloodGuard] = {}
        self._stopped: dict[Partition, FloodGuard] = {}

    def forget(self, partitions: Iterable[Partition]) -> None:
        """Begin anew with partitions, or end with them."""
        for partition in partitions:
            self._stopped.pop(partition, None)
            if self._guards.pop(partition, None) is not None:
                self._trouble.clear(_part(partition))

    def began(self, job: Job, now: float) -> None:
        """A message holds a slot."""
        if (guard := self._guards.get(job.partition)) is not None:
            guard.began(job, now)

    def ended(self, job: Job, *, dead: bool, now: float) -> None:
        """A message succeeded, or became a dead letter, or would have."""
        if not self._enabled:
            return
        guard = self._guards.setdefault(job.partition, FloodGuard())
        before = guard.stopped
        guard.ended(job, dead=dead, now=now)
        if guard.stopped != before:
            self._changed(job.partition, guard)

    def skipped(self, job: Job, now: float) -> None:
        """A message was filtered out."""
        if (guard := self._guards.get(job.partition)) is not None:
            guard.skipped(job, now)

    def parked(self, job: Job, due: float) -> None:
        """A message waits for its next attempt."""
        if (guard := self._guards.get(job.partition)) is not None:
            guard.parked(job, due)

    def admit(self, now: float) -> None:
        """Let the trials begin that are due."""
        for partition, guard in self._stopped.items():
            if guard.due is not None and guard.due <= now:
                guard.due = None
                self._scheduler.admit(partition)

    def next_time(self) -> float | None:
        """When `admit` has something to do next."""
        return min((g.due for g in self._stopped.values() if g.due is not None), default=None)

    def _changed(self, partition: Partition, guard: FloodGuard) -> None:
        if guard.stopped:
            self._stopped[partition] = guard
            self._scheduler.stop(partition)
            self._trouble.report(
                _part(partition),
                Reason.DEAD_LETTER_FLOOD,
                f"{partition.topic}-{partition.partition}: {guard.share}; this partition waits,"
                " and one message a minute is tried",
            )
        else:
            del self._stopped[partition]
            self._scheduler.go_on(partition)
            self._trouble.clear(_part(partition))


def _part(partition: Partition) -> str:
    """Names a partition's dead letters in `Trouble`."""
    return f"dead letters of {partition.topic}-{partition.partition}"
