"""The slots: what runs in them, what comes of it, and what runs next.

A slot is a task that takes one message after the other. When the flow has answered, it goes
straight on with the next message, while the delivery of the result is waited for elsewhere. That
order matters: answers often come together, and if all of them were looked at before any of the next
requests is sent, they would come together for ever, each waiting for the others' work. At 100 ms a
call and 100 slots that makes 7 % (`make bench-worker`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import cache, partial
from typing import Any

import structlog

from flowbinding_worker.control.flood import Floods
from flowbinding_worker.control.flow_control import Call, FlowControl
from flowbinding_worker.control.retry import RetryPolicy
from flowbinding_worker.delivery.outbox import ResultLostError
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Stored
from flowbinding_worker.figures import Busy
from flowbinding_worker.job import Job
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Failure, ProcessingError
from flowbinding_worker.processing import (
    Outcome,
    OutdatedError,
    Processor,
    log_failure,
    unexpected,
    where,
)
from flowbinding_worker.runs import Runs
from flowbinding_worker.scheduler import Scheduler
from flowbinding_worker.trouble import Trouble

log = structlog.get_logger(__name__)

DEFERRED_BYTES = 4096
"""What a message whose result waits on disk weighs besides its own size: what it waits for, and
where the result is. Measured: 4.2 KB."""

MAX_WRITE_SECONDS = 1.0
"""A write that takes longer waits for Kafka to recover, which is no measure of the work."""

_Start = tuple[Job, Call]


class Slots:
    """Runs what the scheduler gives, as much as the flow's limits allow.

    There is no loop here. Whatever changes what may run (messages fetched, a run ended, a retry
    due, a probe due) ends in `dispatch`, or in a slot that asks for its next message.

    Args:
        scheduler: Which message is next.
        control: Whether it may begin.
        floods: Told what becomes of messages.
        runs: Told what each waits for.
        processor: Processes one.
        retry: Decides what becomes of a failed one.
        metrics: Counts.
        trouble: Where to say that the flow fails for all.
        is_ours: Whether a message's partition is ours, or may be again as it was.
        elsewhere: How many messages of ours others run.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        control: FlowControl,
        floods: Floods,
        runs: Runs,
        processor: Processor,
        retry: RetryPolicy,
        metrics: Metrics,
        trouble: Trouble,
        is_ours: Callable[[Job], bool],
        elsewhere: Callable[[], int],
    ) -> None:
        self.busy = Busy(time.monotonic())
        self.room = asyncio.Event()
        """Set when there may be room for more messages."""
        self.crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Raises when a fault in the worker itself ended a run."""
        self.deferred_bytes = 0
        """Memory of messages whose results wait on disk."""
        self._scheduler = scheduler
        self._control = control
        self._floods = floods
        self._runs = runs
        self._processor = processor
        self._retry = retry
        self._metrics = metrics
        self._counter = cache(metrics.messages.labels)
        self._trouble = trouble
        self._is_ours = is_ours
        self._elsewhere = elsewhere
        self._timer: asyncio.TimerHandle | None = None

    def dispatch(self) -> None:
        """Start everything that may run now, and see to it that this happens again in time."""
        try:
            self._fill()
        except Exception as fault:  # noqa: BLE001 - a timer has nobody who would see it
            self._crash(fault)

    def resume(self, job: Job, stored: Stored) -> None:
        """Deliver a result that an earlier run of this worker has left on disk."""
        self._defer(job)
        self._watch(self._settle(job, self._deliver, stored), job)

    def report_circuit(self) -> None:
        """Say whether the flow fails for all."""
        if self._control.reason:
            self._trouble.report("flow", self._control.reason, self._control.message)
        else:
            self._trouble.clear("flow")

    def _fill(self, *, keep: bool = False) -> _Start | None:
        """Begin everything that may run now, in slots of its own.

        Args:
            keep: Leave the first to the caller, and return it.
        """
        now = time.monotonic()
        scheduler, control = self._scheduler, self._control
        scheduler.wake(now)
        self._floods.admit(now)
        scheduler.slots = control.slots_beside(self._elsewhere())
        first: _Start | None = None
        while control.allows(now) and (job := scheduler.take()) is not None:
            self._floods.began(job, now)
            if job.over:
                # Finished by somebody else while it waited here; those behind it can go on.
                scheduler.finish(job)
                self._floods.skipped(job, now)
                self._floods.admit(now)
                continue
            job.release = partial(self._release, job)
            start = job, control.begin(scheduler.running, now)
            if keep and first is None:
                first = start
            else:
                self._watch(self._occupy(start), *start)
        self.busy.change(scheduler.running, max(1, scheduler.slots), now)
        self.room.set()
        self._set_timer(now)
        return first

    def _watch(
        self, coroutine: Coroutine[Any, Any, None], job: Job, call: Call | None = None
    ) -> None:
        task = asyncio.create_task(coroutine)
        self._runs.watch(task, job)
        task.add_done_callback(partial(self._ended, job, call))

    def _ended(self, job: Job, call: Call | None, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash(error)
        elif not self.crashed.done():
            if self._runs.waits(job, task):
                # Cancelled before its first step: nothing of it has run, no `finally` either.
                if call is not None:
                    call.abandoned()
                self._leave(job, None)
            self.dispatch()

    def _crash(self, error: BaseException) -> None:
        if not self.crashed.done():
            self.crashed.set_exception(error)

    async def _occupy(self, following: _Start | None) -> None:
        """One message after the other, as long as there is one."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy
        while following is not None:
            self._runs.watch(task, following[0])
            await self._settle(following[0], self._attempt, following[1])
            # A flow may have swallowed that its run was cancelled: the next one was not.
            following = None if task.cancelling() else self._fill(keep=True)

    async def _settle(
        self, job: Job, attempt: Callable[..., Awaitable[Delivery | float | None]], *given: Any
    ) -> None:
        """See to it that a message, whatever `attempt` does with it, leaves its slot."""
        result: Delivery | float | None = None
        try:
            result = await attempt(job, *given)
        except OutdatedError:
            _log_outdated(job)
        except ResultLostError:
            self._again(job)
        finally:
            if isinstance(result, Delivery):
                self._runs.watch(result.done, job)
                result.done.add_done_callback(partial(self._delivered, job))
            else:
                self._leave(job, result)

    async def _attempt(self, job: Job, call: Call) -> Delivery | float | None:
        """Process a message.

        Returns:
            Its result's delivery, if the slot is free meanwhile; the time of the next attempt; or
            None: it is done.
        """
        try:
            begun = await self._process(job, call)
        except (OutdatedError, ResultLostError):
            raise
        except Exception as error:  # noqa: BLE001 - one message must not stop the others
            return await self._failed(job, error, probe=call.probe)
        if isinstance(begun, Delivery):
            return begun
        if begun is Outcome.FILTERED:
            # Nothing was waited for: all that is there would go by in a single step of the loop.
            await asyncio.sleep(0)
        self._done(job, begun)
        return None

    async def _process(self, job: Job, call: Call) -> Delivery | Outcome:
        started = time.monotonic()
        try:
            begun = await self._processor.begin(job, call)
        finally:
            # If it was not called after all: a probe that called nothing must not hold up others.
            call.abandoned()
            self.report_circuit()
        answered = time.monotonic()
        if isinstance(begun, Delivery) and not (job.deferred or self._scheduler.answered(job)):
            # Kafka is behind. What it does not take must not pile up.
            await begun.done
            begun = Outcome.SUCCEEDED
        seconds = min(time.monotonic() - answered, MAX_WRITE_SECONDS) + answered - started
        self._processor.seconds_per_message.add(seconds)
        return begun

    async def _failed(self, job: Job, error: Exception, *, probe: bool = False) -> float | None:
        """The time of the next attempt; None when the message has become a dead letter."""
        failure = error
        if not isinstance(failure, ProcessingError):
            log.error("unexpected error", exc_info=failure, **where(job.record))
            failure = unexpected(failure)
        delay = self._judge(job, failure, probe=probe)
        if delay is not None:
            return time.monotonic() + delay
        # A dead letter may wait for Kafka for hours.
        self.dispatch()
        self._done(job, await self._processor.bury(job, self._retry.letter(job, failure)))
        return None

    def _judge(self, job: Job, error: ProcessingError, *, probe: bool) -> float | None:
        """Seconds until the next attempt; None: a dead letter."""
        self._metrics.failures.labels(error.failure.value).inc()
        job.first_failure_ms = job.first_failure_ms or time.time_ns() // 1_000_000
        # While the flow fails for all, no message loses attempts. Except the one that a probe has
        # actually run: if all messages left are bad ones, they must leave one by one in the end. A
        # server that asks for less says nothing about the message, however often it is asked.
        blamed = probe and error.ran and error.failure is not Failure.THROTTLE
        spared = self._control.is_open and not blamed
        clock = self._control.clock(time.monotonic())
        delay = self._retry.delay(job, error, spared=spared, clock=clock)
        log_failure(job, error, delay)
        return delay

    def _delivered(self, job: Job, done: asyncio.Future[None]) -> None:
        """A result that nobody waits for in a slot has come to its end."""
        error = None if done.cancelled() else done.exception()
        try:
            if error is not None and not isinstance(error, ResultLostError):
                self._watch(self._settle(job, self._failed, error), job)
                return
            try:
                if error is not None:
                    self._again(job)
                elif not done.cancelled():
                    self._done(job, Outcome.SUCCEEDED)
            except OutdatedError:
                _log_outdated(job)
            self._leave(job, None)
        except Exception as fault:  # noqa: BLE001 - a fault of ours: the worker cannot go on
            self._crash(fault)
        if self._scheduler.running < self._scheduler.slots:
            self.dispatch()

    async def _deliver(self, job: Job, stored: Stored) -> None:
        try:
            outcome = await self._processor.deliver(job, stored)
        except ProcessingError as error:
            outcome = await self._processor.bury(job, error)
        self._done(job, outcome)

    def _release(self, job: Job) -> None:
        if not job.deferred:
            self._scheduler.finish(job)
            self._defer(job)
            self.dispatch()

    def _defer(self, job: Job) -> None:
        job.deferred = True
        self.deferred_bytes += _deferred_size(job)

    def _leave(self, job: Job, due: float | None) -> None:
        """An attempt is over: its slot is free, and the next of the chain may go if it is done."""
        self._runs.over(job)
        self.room.set()
        if due is not None and job.tracker.handed is not None:
            job.tracker.handed.free(job.record.offset, job.attempts, due)
        if job.deferred:
            self.deferred_bytes -= _deferred_size(job)
            if due is not None:
                self._again(job)
        elif due is None:
            self._scheduler.finish(job)
        else:
            self._scheduler.park(job, due)
            self._floods.parked(job, due)

    def _again(self, job: Job) -> None:
        """A result that waited on disk cannot be read any more: its message runs once more."""
        if job.tracker.handed is not None:
            job.tracker.handed.free(job.record.offset, job.attempts, 0.0)
        if self._is_ours(job) and self._scheduler.has(job.partition):
            self._floods.skipped(job, time.monotonic())
            self._scheduler.add(Job(job.record, job.tracker))

    def _done(self, job: Job, outcome: Outcome) -> None:
        if job.tracker.retired:
            raise OutdatedError
        job.tracker.complete(job.record.offset)
        if job.tracker.handed is not None:
            job.tracker.handed.done(job.record.offset)
        self._counter(outcome.value).inc()
        if self._is_ours(job):
            self._note(job, outcome)

    def _note(self, job: Job, outcome: Outcome) -> None:
        """Tell the flood guard."""
        now = time.monotonic()
        if outcome is Outcome.FILTERED:
            self._floods.skipped(job, now)
        else:
            self._floods.ended(job, dead=outcome is not Outcome.SUCCEEDED, now=now)

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
            self._scheduler.next_due(),
            self._control.next_time(now),
            self._floods.next_time(),
        )
        if due := [at for at in times if at is not None]:
            delay = max(0.0, min(due) - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self.dispatch)


def _deferred_size(job: Job) -> int:
    """Bytes of memory that a message takes while its result waits on disk, about."""
    return job.size + DEFERRED_BYTES


def _log_outdated(job: Job) -> None:
    log.info("outcome dropped: the partition has moved on", **where(job.record))
