"""The messages that a worker holds: takes them in, runs as many as it may, and refills at once.

There is no loop here. Whatever changes what may run (messages fetched, a run ended, a retry due, a
probe due) ends in `dispatch`, which starts everything that can start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

import structlog

from flowbinding_api.spec import FlowBindingSpec
from flowbinding_worker.control.flood import Floods
from flowbinding_worker.control.flow_control import Call, FlowControl
from flowbinding_worker.control.retry import RetryPolicy
from flowbinding_worker.delivery.outbox import ResultLostError
from flowbinding_worker.delivery.spool import Stored
from flowbinding_worker.figures import Busy
from flowbinding_worker.handover.incoming import Incoming, Turn
from flowbinding_worker.handover.inheritance import Inheritance
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import Batch
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Failure, Partition, ProcessingError
from flowbinding_worker.processing import Outcome, OutdatedError, Processor, unexpected, where
from flowbinding_worker.runs import Runs
from flowbinding_worker.scheduler import MAX_BYTES, Scheduler
from flowbinding_worker.tracker import MAX_UNFINISHED, Tracker
from flowbinding_worker.trouble import Trouble

log = structlog.get_logger(__name__)

DEFERRED_BYTES = 4096
"""What a message whose result waits on disk weighs besides its own size: its task, what it waits
for, and where the result is. Measured: 4.2 KB."""


class Work:
    """The messages of the assigned partitions, and the runs in flight.

    Args:
        spec: The binding's.
        processor: Processes a message.
        retry: Decides what becomes of a failed one.
        metrics: Counts.
        trouble: Where to say that the flow fails for all.
        partitions: How many partitions the topics have; for shares of what holds for all workers.
    """

    def __init__(
        self,
        spec: FlowBindingSpec,
        processor: Processor,
        retry: RetryPolicy,
        metrics: Metrics,
        trouble: Trouble,
        partitions: Callable[[], int],
    ) -> None:
        now = time.monotonic()
        self.trackers: dict[Partition, Tracker] = {}
        self.suspended: dict[Partition, Tracker] = {}
        """Of partitions that were taken away and may come back."""
        self.inheritance = Inheritance()
        self.control = FlowControl(spec.concurrency, spec.rate_limit, now)
        self.scheduler = Scheduler(spec.concurrency.ordering, self.control.slots)
        self.busy = Busy(now)
        self.room = asyncio.Event()
        """Set when it may be worth while to look at `scheduler.wanted` again."""
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises when a fault in the worker itself ended a run."""
        self.ends: dict[Partition, int] = {}
        self._blocked: set[Partition] = set()
        self._floods = Floods(self.scheduler, trouble, enabled=spec.dead_letter.flood_guard)
        self._partitions = partitions
        self._processor = processor
        self._retry = retry
        self._metrics = metrics
        self._trouble = trouble
        self.runs = Runs(self._ended)
        self._deferred_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def lag(self) -> int:
        """Messages of the assigned partitions that are not done, as far as known."""
        behind = (
            end - offset
            for partition, end in self.ends.items()
            if (tracker := self.trackers.get(partition)) is not None
            and (offset := tracker.committable) is not None
        )
        return sum(max(0, n) for n in behind)

    def wanted(self) -> dict[Partition, int]:
        """Partitions to fetch from, and how many messages of each at most."""
        if self._deferred_bytes > MAX_BYTES:
            return {}
        rooms = {
            p: min(most, MAX_UNFINISHED - self.trackers[p].unfinished)
            for p, most in self.scheduler.wanted().items()
            if p not in self._blocked
        }
        return {p: room for p, room in rooms.items() if room > 0}

    def block(self, partition: Partition, reason: str, message: str) -> None:
        """Fetch nothing more of a partition in this assignment; what was fetched goes on."""
        if partition in self.trackers:
            self._blocked.add(partition)
            self._trouble.report(_part(partition), reason, message)

    def _unblock(self, partition: Partition) -> None:
        self._blocked.discard(partition)
        self._trouble.clear(_part(partition))

    def assign(
        self, trackers: Mapping[Partition, Tracker], incoming: Mapping[Partition, Incoming]
    ) -> None:
        """Begin with partitions; each tracker is the new epoch of its partition.

        Args:
            trackers: Where to begin.
            incoming: What earlier owners say of messages from there on, as far as known.
        """
        self.trackers.update(trackers)
        self.inheritance.begin(incoming)
        self.scheduler.assign(trackers)
        self._floods.forget(trackers)
        for partition, tracker in trackers.items():
            self._processor.committed(partition, tracker.committable or 0)
        self._share()
        self.room.set()

    def accept(self, batch: Batch) -> None:
        """Track and queue what was fetched. Call `dispatch` after it."""
        tracker = self.trackers.get(batch.partition)
        if tracker is None:
            return
        first = batch.records[0].offset if batch.records else batch.position
        if tracker.contradicts(first, batch.end):
            tracker = self._begin_anew(batch.partition, first)
        if batch.end is not None:
            self.ends[batch.partition] = batch.end
        for record in tracker.fetched(batch.records, batch.position):
            job = Job(record, tracker)
            if self.inheritance.admit(job, time.monotonic()) is Turn.DONE:
                self._inherited(job)
            else:
                self._queue(job)

    def reconsider(self, partition: Partition) -> None:
        """Earlier owners of a partition have said something new."""
        for job, turn in self.inheritance.reconsider(partition, time.monotonic()):
            if turn is Turn.DONE:
                self._inherited(job)
            else:
                self._metrics.handovers.labels("TakenOver").inc()
            self.scheduler.release(job)
        self.dispatch()

    def _inherited(self, job: Job) -> None:
        """An earlier owner of the partition has finished a message."""
        job.tracker.complete(job.record.offset)
        self._metrics.handovers.labels("Finished").inc()

    def _queue(self, job: Job) -> None:
        """Let a message wait for its run, unless its result has waited on disk since a restart."""
        # While another worker runs it, what is here may be older than its result.
        stored = None if job.held else self._processor.stored(job.record)
        if stored is None:
            self.scheduler.add(job)
            return
        self._defer(job)
        self.runs.watch(asyncio.create_task(self._resume(job, stored)), job)

    def dispatch(self) -> None:
        """Start everything that may run now, and see to it that this happens again in time."""
        now = time.monotonic()
        self.scheduler.wake(now)
        self._floods.admit(now)
        self.scheduler.slots = self.control.slots
        while self.control.allows(now):
            job = self.scheduler.take()
            if job is None:
                break
            if job.over:
                # Finished by somebody else while it waited here; those behind it can go on.
                self.scheduler.finish(job)
                self._floods.began(job, now)
                self._floods.skipped(job, now)
                self._floods.admit(now)
                continue
            job.release = partial(self._release, job)
            job.answered = partial(self._answered, job)
            self._floods.began(job, now)
            call = self.control.begin(self.scheduler.running, now)
            self.runs.watch(asyncio.create_task(self._run(job, call)), job)
        self.busy.change(self.scheduler.running, self.scheduler.slots, now)
        self.room.set()
        self._set_timer(now)

    def halt(self, partitions: Collection[Partition]) -> None:
        """Start nothing of partitions; what runs goes on and still counts."""
        self.scheduler.suspend(partitions)

    def suspend(self, partitions: Collection[Partition]) -> None:
        """Partitions are taken away, and may come back: nothing is committed for them any more."""
        self.halt(partitions)
        for partition in partitions:
            if (tracker := self.trackers.pop(partition, None)) is not None:
                self.suspended[partition] = tracker

    def resume(self, partitions: Collection[Partition]) -> None:
        """Partitions have come back before anybody else had them: go on where they were."""
        for partition in partitions:
            self.trackers[partition] = self.suspended.pop(partition)
            self._unblock(partition)
        self.scheduler.resume(partitions)
        self._share()
        self.dispatch()

    def abandon(self, partitions: Collection[Partition]) -> None:
        """Partitions are somebody else's: what waits is dropped.

        What runs goes on, and counts as long as the tracker is not retired.
        """
        self.scheduler.revoke(partitions)
        for partition in partitions:
            self.inheritance.end(partition)
            self.trackers.pop(partition, None)
            self.suspended.pop(partition, None)
            self.ends.pop(partition, None)
            self._unblock(partition)
        self._floods.forget(partitions)
        self._share()

    def _share(self) -> None:
        """What this worker may do of what all may do together."""
        self.control.share(len(self.trackers), self._partitions(), time.monotonic())

    def retire(self, partitions: Collection[Partition]) -> list[Tracker]:
        """End the epoch of partitions: whatever still happens to their messages has no effect.

        Returns:
            The trackers, for `Runs.cancel`.
        """
        found = [t for p in partitions for t in (self.trackers.get(p), self.suspended.get(p)) if t]
        for tracker in found:
            tracker.retire()
        self.abandon(partitions)
        return found

    async def close(self) -> None:
        """Stop writing results; those on disk stay there for a worker that starts again."""
        await self._processor.close()

    async def forget(self) -> None:
        """End the epoch of all partitions at once, running messages included."""
        await self.runs.cancel(self.retire(list(self.trackers)))

    async def _run(self, job: Job, call: Call) -> None:
        """One attempt; frees the slot in any case."""
        due: float | None = None
        try:
            due = await self._attempt(job, call)
        except OutdatedError:
            log.info("outcome dropped: the partition has moved on", **where(job.record))
        except ResultLostError:
            self._again(job)
        finally:
            call.abandoned()
            if due is not None and job.tracker.handed is not None:
                job.tracker.handed.free(job.record.offset, job.attempts, due)
            if job.deferred:
                self._deferred_bytes -= _deferred_size(job)
                if due is not None:
                    self._again(job)
            elif due is None:
                self.scheduler.finish(job)
            else:
                self.scheduler.park(job, due)
                self._floods.parked(job, due)

    async def _resume(self, job: Job, stored: Stored) -> None:
        """Write a result that an earlier run of this worker has left on disk."""
        try:
            try:
                outcome = await self._processor.deliver(job, stored)
            except ProcessingError as error:
                outcome = await self._processor.bury(job, error)
            self._done(job, outcome)
        except OutdatedError:
            log.info("outcome dropped: the partition has moved on", **where(job.record))
        except ResultLostError:
            self._again(job)
        finally:
            self._deferred_bytes -= _deferred_size(job)

    def _answered(self, job: Job) -> bool:
        free = self.scheduler.answered(job)
        if free:
            self.dispatch()
        return free

    def _release(self, job: Job) -> None:
        if not job.deferred:
            self.scheduler.finish(job)
            self._defer(job)
            self.dispatch()

    def _defer(self, job: Job) -> None:
        job.deferred = True
        self._deferred_bytes += _deferred_size(job)

    def _again(self, job: Job) -> None:
        """A result that waited on disk cannot be read any more: its message runs once more."""
        if job.tracker.handed is not None:
            job.tracker.handed.free(job.record.offset, job.attempts, 0.0)
        if self._is_ours(job):
            self._floods.skipped(job, time.monotonic())
            self.scheduler.add(Job(job.record, job.tracker))

    def _is_ours(self, job: Job) -> bool:
        """Whether its partition is, or may be again as it was."""
        return job.tracker in (self.trackers.get(job.partition), self.suspended.get(job.partition))

    async def _attempt(self, job: Job, call: Call) -> float | None:
        """Process a message; the time of the next attempt, or None when it is done."""
        try:
            outcome = await self._processor.attempt(job, call)
        except ProcessingError as error:
            failure = error
        except (OutdatedError, ResultLostError):
            raise
        except Exception as error:
            log.exception("unexpected error", **where(job.record))
            failure = unexpected(error)
        else:
            self._done(job, outcome)
            return None
        delay = self._judge(job, call, failure)
        if delay is not None:
            return time.monotonic() + delay
        # A dead letter may wait for Kafka for hours. A probe that called nothing must not.
        call.abandoned()
        self.dispatch()
        self._done(job, await self._processor.bury(job, self._retry.letter(job, failure)))
        return None

    def _judge(self, job: Job, call: Call, error: ProcessingError) -> float | None:
        """Seconds until the next attempt; None: a dead letter."""
        self._metrics.failures.labels(error.failure.value).inc()
        job.first_failure_ms = job.first_failure_ms or time.time_ns() // 1_000_000
        # While the flow fails for all, no message loses attempts. Except the one that a probe has
        # actually run: if all messages left are bad ones, they must leave one by one in the end. A
        # server that asks for less says nothing about the message, however often it is asked.
        blamed = call.probe and error.ran and error.failure is not Failure.THROTTLE
        spared = self.control.is_open and not blamed
        clock = self.control.clock(time.monotonic())
        delay = self._retry.delay(job, error, spared=spared, clock=clock)
        log.warning(
            "attempt failed",
            failure=error.failure.value,
            reason=error.reason,
            error=str(error),
            status=error.status,
            attempts=job.attempts,
            retry_seconds=None if delay is None else round(delay, 3),
            **where(job.record),
        )
        if error.response:
            # It may quote the message.
            log.debug("response", response=error.response, **where(job.record))
        return delay

    def _done(self, job: Job, outcome: Outcome) -> None:
        if job.tracker.retired:
            raise OutdatedError
        job.tracker.complete(job.record.offset)
        if job.tracker.handed is not None:
            job.tracker.handed.done(job.record.offset)
        self._metrics.messages.labels(outcome.value).inc()
        if self._is_ours(job):
            self._note(job, outcome)

    def _note(self, job: Job, outcome: Outcome) -> None:
        """Tell the flood guard."""
        now = time.monotonic()
        if outcome is Outcome.FILTERED:
            self._floods.skipped(job, now)
        else:
            self._floods.ended(job, dead=outcome is not Outcome.SUCCEEDED, now=now)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            if not self.crashed.done():
                self.crashed.set_exception(error)
            return
        self._report_circuit()
        self.dispatch()

    def _report_circuit(self) -> None:
        if self.control.reason:
            self._trouble.report("flow", self.control.reason, self.control.message)
        else:
            self._trouble.clear("flow")

    def trip(self, error: ProcessingError) -> None:
        """Open the circuit for a failure that was found without a message."""
        self.control.trip(error, time.monotonic())
        self._report_circuit()

    def recovered(self) -> None:
        """What `trip` was called for is repaired. Nothing to do when a run has shown it before."""
        if self.control.is_open:
            self.control.recover(time.monotonic())
            self._report_circuit()
            self.dispatch()

    def _begin_anew(self, partition: Partition, offset: int) -> Tracker:
        """The partition's log is another than we knew: nothing known about it holds."""
        log.warning(
            "the partition was made anew or cut short: what was known of it is dropped",
            topic=partition.topic,
            partition=partition.partition,
            offset=offset,
        )
        self._metrics.metadata_ignored.inc()
        self.trackers[partition].retire()
        self.runs.cancel_retired()
        self.inheritance.void(partition)
        self.scheduler.revoke([partition])
        tracker = Tracker()
        self.assign({partition: tracker}, {})
        return tracker

    def _set_timer(self, now: float) -> None:
        """One timer for whatever is due first.

        A call that may begin already needs none: it waits for a message, not for a time.

        Args:
            now: The time at which it was decided what may begin. What has become due since then
                must not be taken for begun.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        times = (
            self.scheduler.next_due(),
            self.control.next_time(now),
            self._floods.next_time(),
        )
        if due := [at for at in times if at is not None]:
            delay = max(0.0, min(due) - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.dispatch)


def _deferred_size(job: Job) -> int:
    """Bytes of memory that a message takes while its result waits on disk, about."""
    return job.size + DEFERRED_BYTES


def _part(partition: Partition) -> str:
    """Names a partition in `Trouble`."""
    return f"partition {partition.topic}-{partition.partition}"
