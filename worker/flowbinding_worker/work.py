"""The messages that a worker holds: takes them in, runs as many as it may, and refills at once.

There is no loop here. Whatever changes what may run (messages fetched, a run ended, a retry due, a
probe due) ends in `dispatch`, which starts everything that can start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

import structlog

from flowbinding_api.spec import Concurrency
from flowbinding_worker.circuit import Call, Circuit
from flowbinding_worker.figures import Busy
from flowbinding_worker.job import Job
from flowbinding_worker.kafka_port import Batch
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Failure, Partition, ProcessingError
from flowbinding_worker.processing import Outcome, OutdatedError, Processor, unexpected, where
from flowbinding_worker.retry import RetryPolicy
from flowbinding_worker.scheduler import Scheduler
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.trouble import Trouble

log = structlog.get_logger(__name__)

CANCEL_SECONDS = 1.0
"""How long cancelled runs may take to notice; afterwards they have no effect anyway."""


class Work:
    """The messages of the assigned partitions, and the runs in flight.

    Args:
        concurrency: `spec.concurrency`.
        processor: Processes a message.
        retry: Decides what becomes of a failed one.
        metrics: Counts.
        trouble: Where to say that the flow fails for all.
    """

    def __init__(
        self,
        concurrency: Concurrency,
        processor: Processor,
        retry: RetryPolicy,
        metrics: Metrics,
        trouble: Trouble,
    ) -> None:
        slots = concurrency.per_replica
        self.trackers: dict[Partition, Tracker] = {}
        self.scheduler = Scheduler(concurrency.ordering, slots)
        self.circuit = Circuit(slots)
        self.busy = Busy(slots, time.monotonic())
        self.room = asyncio.Event()
        """Set when it may be worth while to look at `scheduler.wanted` again."""
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises when a fault in the worker itself ended a run."""
        self.ends: dict[Partition, int] = {}
        self._blocked: set[Partition] = set()
        self._processor = processor
        self._retry = retry
        self._metrics = metrics
        self._trouble = trouble
        self._tasks: dict[asyncio.Task[None], Job] = {}
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
        wanted = self.scheduler.wanted()
        return {p: most for p, most in wanted.items() if p not in self._blocked}

    def block(self, partition: Partition, reason: str, message: str) -> None:
        """Fetch nothing more of a partition in this assignment; what was fetched goes on."""
        if partition in self.trackers:
            self._blocked.add(partition)
            self._trouble.report(_part(partition), reason, message)

    def assign(self, trackers: Mapping[Partition, Tracker]) -> None:
        """Begin with partitions; each tracker is the new epoch of its partition."""
        self.trackers.update(trackers)
        self.scheduler.assign(trackers)
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
            self.scheduler.add(Job(record, tracker))

    def dispatch(self) -> None:
        """Start everything that may run now, and see to it that this happens again in time."""
        now = time.monotonic()
        self.scheduler.wake(now)
        while self.circuit.allows(now):
            job = self.scheduler.take()
            if job is None:
                break
            task = asyncio.create_task(self._run(job, self.circuit.begin()))
            self._tasks[task] = job
            task.add_done_callback(self._ended)
        self.busy.change(self.scheduler.running, now)
        self.room.set()
        self._set_timer()

    def halt(self, partitions: Collection[Partition]) -> None:
        """Drop what does not run yet; what runs goes on and still counts."""
        self.scheduler.revoke(partitions)

    async def drain(
        self, partitions: Collection[Partition], seconds: float, cut: asyncio.Event
    ) -> None:
        """Wait for the runs of halted partitions, not longer than `seconds` nor beyond `cut`."""
        running = [task for task, job in self._tasks.items() if job.partition in partitions]
        if not running:
            return
        everything = asyncio.ensure_future(asyncio.wait(running, timeout=seconds))
        enough = asyncio.ensure_future(cut.wait())
        await asyncio.wait({everything, enough}, return_when=asyncio.FIRST_COMPLETED)
        for task in (everything, enough):
            task.cancel()

    async def cancel(self, partitions: Collection[Partition]) -> int:
        """Cancel what still runs of halted partitions.

        Returns:
            How many runs that were.
        """
        late = [task for task, job in self._tasks.items() if job.partition in partitions]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        return len(late)

    def retire(self, partitions: Collection[Partition]) -> None:
        """End the epoch of partitions: whatever still happens to their messages has no effect."""
        self.halt(partitions)
        for partition in partitions:
            self.ends.pop(partition, None)
            self._blocked.discard(partition)
            self._trouble.clear(_part(partition))
            tracker = self.trackers.pop(partition, None)
            if tracker is not None:
                tracker.retired = True

    async def forget(self) -> None:
        """End the epoch of all partitions at once, running messages included."""
        partitions = list(self.trackers)
        self.retire(partitions)
        await self.cancel(partitions)

    async def _run(self, job: Job, call: Call) -> None:
        """One attempt; frees the slot in any case."""
        due: float | None = None
        try:
            due = await self._attempt(job, call)
        except OutdatedError:
            log.info("outcome dropped: the partition has moved on", **where(job.record))
        finally:
            call.abandoned()
            if due is None:
                self.scheduler.finish(job)
            else:
                self.scheduler.park(job, due)

    async def _attempt(self, job: Job, call: Call) -> float | None:
        """Process a message; the time of the next attempt, or None when it is done."""
        try:
            outcome = await self._processor.attempt(job, call)
        except ProcessingError as error:
            failure = error
        except OutdatedError:
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
        self._done(job, await self._processor.bury(job, failure))
        return None

    def _judge(self, job: Job, call: Call, error: ProcessingError) -> float | None:
        """Seconds until the next attempt; None: a dead letter."""
        self._metrics.failures.labels(error.failure.value).inc()
        job.first_failure_ms = job.first_failure_ms or time.time_ns() // 1_000_000
        # While the flow fails for all, no message loses attempts. Except the one that a probe has
        # actually run: if all messages left are bad ones, they must leave one by one in the end. A
        # server that asks for less says nothing about the message, however often it is asked.
        blamed = call.probe and error.ran and error.failure is not Failure.THROTTLE
        spared = self.circuit.is_open and not blamed
        delay = self._retry.delay(job, error, spared=spared)
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
        self._metrics.messages.labels(outcome.value).inc()

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            if not self.crashed.done():
                self.crashed.set_exception(error)
            return
        self._report_circuit()
        self.dispatch()

    def _report_circuit(self) -> None:
        if self.circuit.reason:
            self._trouble.report("flow", self.circuit.reason, self.circuit.message)
        else:
            self._trouble.clear("flow")

    def trip(self, error: ProcessingError) -> None:
        """Open the circuit for a failure that was found without a message."""
        self.circuit.trip(error, time.monotonic())
        self._report_circuit()

    def recovered(self) -> None:
        """What `trip` was called for is repaired. Nothing to do when a run has shown it before."""
        if self.circuit.is_open:
            self.circuit.recover()
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
        self.trackers[partition].retired = True
        for task, job in self._tasks.items():
            if job.tracker.retired:
                task.cancel()
        self.halt([partition])
        tracker = Tracker()
        self.assign({partition: tracker})
        return tracker

    def _set_timer(self) -> None:
        """One timer for whatever is due first.

        A probe that is due already needs none: it waits for a message, not for a time.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = time.monotonic()
        due, probe = self.scheduler.next_due(), self.circuit.next_probe()
        times = [due] if due is not None else []
        if probe is not None and probe > now:
            times.append(probe)
        if times:
            delay = max(0.0, min(times) - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self.dispatch)


def _part(partition: Partition) -> str:
    """Names a partition in `Trouble`."""
    return f"partition {partition.topic}-{partition.partition}"
