"""The worker's life: start the flow, join the group, take messages in, and end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from flowbinding_api.errors import FlowBindingError
from flowbinding_worker.committer import Committer
from flowbinding_worker.control.retry import Backoff
from flowbinding_worker.handover.rebalance import Handover
from flowbinding_worker.kafka.port import (
    ConsumerBrokenError,
    ConsumerPort,
    KafkaUnavailableError,
    ProducerPort,
    RecordUnreadableError,
)
from flowbinding_worker.ports import Flow, Partition, ProcessingError
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.waiting import within
from flowbinding_worker.work import Work

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.02
"""Longest wait for messages, while some run, before looking again which partitions have room."""
IDLE_POLL_SECONDS = 0.2
"""The same while that cannot change: none run, or all have room."""
FULL_SECONDS = 1.0
"""How often to look for errors while no partition has room, or none is assigned."""
STUCK_SECONDS = 90.0
"""Twice the session timeout: after so long without a fetch we ask whether there is anything."""
ASK_SECONDS = 10.0
CLOSE_SECONDS = 2.0
HEAL_SECONDS = 5.0
"""How often a flow that could not start is tried again."""
_BACKOFF = Backoff(initial=1.0, cap=15.0)


class Stop:
    """The wish to stop: once in good order, twice in a hurry."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.hurry = asyncio.Event()

    def ask(self) -> None:
        """To be called on each SIGTERM."""
        (self.hurry if self.wanted.is_set() else self.wanted).set()


@dataclass(frozen=True, slots=True)
class Parts:
    """What the engine is made of.

    Attributes:
        flow: Runs messages.
        work: Decides which.
        consumer: Gives them.
        producer: Writes results and dead letters.
        committer: Commits.
        rebalances: Told when partitions come and go.
        trouble: Where to say what does not work.
        stop: The wish to stop.
        grace_seconds: How long running messages may take after that wish.
    """

    flow: Flow
    work: Work
    consumer: ConsumerPort
    producer: ProducerPort
    committer: Committer
    rebalances: Handover
    trouble: Trouble
    stop: Stop
    grace_seconds: float


class Engine:
    """Runs a binding until it is asked to stop.

    Args:
        parts: What it is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._started = False
        self._draw = Random()  # noqa: S311 - jitter, not a secret
        self._positions: dict[Partition, int] = {}
        self._healing: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether the flow is started, the group joined and no stop wanted."""
        joined = self._parts.rebalances.joined.is_set()
        return self._started and joined and not self._parts.stop.wanted.is_set()

    async def run(self) -> None:
        """Work until a stop is wanted, then let running messages end, commit and leave the group.

        Raises:
            Exception: Whatever ended one of the engine's own tasks: it cannot go on.
        """
        parts = self._parts
        try:
            if await self._unless_stopped(self._start_flow()):
                intake = asyncio.create_task(self._intake())
                committing = asyncio.create_task(parts.committer.run())
                handing = asyncio.create_task(parts.rebalances.run())
                try:
                    await self._until_stop(intake, committing, handing)
                    await self._drain(intake)
                finally:
                    await _cancel(intake, committing, handing)
        finally:
            await self._leave()

    async def _start_flow(self) -> None:
        try:
            await self._parts.flow.start()
        except ProcessingError as error:
            # It recovers by itself after the repair: joining the group shows what is wrong.
            self._parts.work.trip(error)
            self._healing = asyncio.create_task(self._heal_flow())
        self._started = True

    async def _heal_flow(self) -> None:
        """Find out that a flow that could not start can, also when no message comes to try it."""
        while self._parts.work.control.is_open:
            await asyncio.sleep(HEAL_SECONDS)
            with contextlib.suppress(ProcessingError):
                await self._parts.flow.start()
                self._parts.work.recovered()
                return

    async def _unless_stopped(self, coroutine: Coroutine[Any, Any, None]) -> bool:
        """Run something; False when a stop was wanted first."""
        task = asyncio.create_task(coroutine)
        stop = asyncio.create_task(self._parts.stop.wanted.wait())
        try:
            await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                return False
            task.result()
            return True
        finally:
            await _cancel(task, stop)

    async def _until_stop(self, *tasks: asyncio.Task[None]) -> None:
        """Wait for the wish to stop; raise what ended a task before that."""
        stop = asyncio.create_task(self._parts.stop.wanted.wait())
        crashed = self._parts.work.slots.crashed
        try:
            waiting: set[asyncio.Future[Any]] = {stop, crashed, *tasks}
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel(stop)
        for task in done - {stop}:
            task.result()

    async def _intake(self) -> None:
        """Stay in the group and take messages in, for ever."""
        while True:
            await self._join()
            try:
                await self._poll()
            except ConsumerBrokenError as error:
                self._parts.trouble.report("consumer", error.reason, str(error))
                await self._parts.work.forget()
                if not await self._parts.consumer.stop():
                    # Two members in one process would share the partitions. A new process has one.
                    raise
                # An assignment may have come in while it stopped.
                await self._parts.work.forget()
                await self._wait(1)

    async def _join(self) -> None:
        failures = 0
        while True:
            try:
                await self._parts.consumer.start(self._parts.rebalances)
            except FlowBindingError as error:
                failures += 1
                self._parts.trouble.report("consumer", error.reason, str(error))
                await self._wait(failures)
            else:
                self._parts.trouble.clear("consumer")
                return

    async def _poll(self) -> None:
        work = self._parts.work
        failures = 0
        moved_at = time.monotonic()
        while True:
            work.slots.room.clear()
            wanted = work.wanted()
            waits = work.scheduler.running and len(wanted) < len(work.trackers)
            seconds = POLL_SECONDS if waits else IDLE_POLL_SECONDS
            try:
                batches = await self._parts.consumer.poll(wanted, seconds)
            except KafkaUnavailableError as error:
                failures += 1
                self._parts.trouble.report("poll", error.reason, str(error))
                await self._wait(failures)
                continue
            except RecordUnreadableError as error:
                work.block(error.partition, error.reason, str(error))
                continue
            # Tracked before anything else can happen: what is not tracked must not be passed over.
            for batch in batches:
                work.accept(batch)
                moved_at = self._moved(batch.partition, batch.position, moved_at)
            failures = 0
            self._parts.trouble.clear("poll")
            if not wanted:
                moved_at = time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await within(work.slots.room.wait(), FULL_SECONDS)
                continue
            work.slots.dispatch()
            if time.monotonic() - moved_at > STUCK_SECONDS:
                await self._check_stuck()
                moved_at = time.monotonic()

    def _moved(self, partition: Partition, position: int, before: float) -> float:
        if self._positions.get(partition) == position:
            return before
        self._positions[partition] = position
        return time.monotonic()

    async def _check_stuck(self) -> None:
        """After a restart of brokers, aiokafka has stopped fetching for good before (#1154).

        Raises:
            ConsumerBrokenError: There are messages, we have room for them, and they do not come.
        """
        work = self._parts.work
        wanted = [p for p in work.wanted() if p in self._positions]
        if not wanted or work.scheduler.running:
            return
        with contextlib.suppress(KafkaUnavailableError, TimeoutError):
            ends = await within(self._parts.consumer.ends(wanted), ASK_SECONDS)
            if any(end > self._positions[p] for p, end in ends.items()):
                raise ConsumerBrokenError(f"nothing fetched for {STUCK_SECONDS:.0f} s")

    async def _drain(self, intake: asyncio.Task[None]) -> None:
        """Stop taking messages in, leave the group if it need not wait, let the rest end."""
        parts, grace = self._parts, self._parts.grace_seconds
        log.info("stopping", running=parts.work.scheduler.running, grace_seconds=grace)
        deadline = time.monotonic() + grace
        await _cancel(intake)
        left = False
        with contextlib.suppress(TimeoutError):
            # A rebalance under way may wait for running messages for longer than there is time.
            left = await within(parts.rebalances.leave(), grace)
        if left:
            await parts.consumer.stop()
        cancelled = await parts.rebalances.finish(max(0.0, deadline - time.monotonic()))
        log.info("stopped", cancelled=cancelled, left_at_once=left)

    async def _leave(self) -> None:
        if self._healing is not None:
            await _cancel(self._healing)
        parts = self._parts
        await parts.work.close()
        closing = within(parts.flow.close(), CLOSE_SECONDS)
        # Side by side: each is bounded, and the Pod's time is short.
        results = await asyncio.gather(
            *(parts.consumer.stop(), parts.producer.stop(), parts.rebalances.close(), closing),
            return_exceptions=True,
        )
        for error in results:
            if isinstance(error, BaseException):
                log.warning("closed with an error", error=repr(error))

    async def _wait(self, failures: int) -> None:
        await asyncio.sleep(_BACKOFF.delay(failures, 0.5 + self._draw.random() / 2))


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait for their end; what they raise was seen before or does not matter."""
    for task in tasks:
        task.cancel()
    waiting: Awaitable[Any] = asyncio.gather(*tasks, return_exceptions=True)
    await waiting
