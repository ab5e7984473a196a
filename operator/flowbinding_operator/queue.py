"""A keyed work queue, like controller-runtime's, with lanes.

A key is one binding. Adding a key that waits already changes nothing (the earlier turn wins);
adding one that is being worked on makes it run again afterwards. So one key never runs twice at
once, and however many events arrive, the last one is always followed by a run that sees its effect.

`lanes.Schedule` is the pure part; `WorkQueue` adds the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from flowbinding_operator.lanes import Lane, Schedule

log = structlog.get_logger(__name__)

Handler = Callable[[str], Awaitable[float | None]]
"""Works on a key. Returns the seconds after which to look again, if at all."""


class WorkQueue:
    """Runs a handler for every due key, a bounded number at the same time."""

    def __init__(
        self,
        handler: Handler,
        *,
        concurrency: int = 8,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._handler = handler
        self._concurrency = concurrency
        self._clock = clock
        self._schedule = Schedule()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.last_progress = clock()
        """When the queue last started, finished or had nothing to do: liveness looks at it."""

    @property
    def depth(self) -> int:
        """Keys that are due and wait for their turn."""
        return self._schedule.depth(self._clock())

    def add(self, key: str, delay: float = 0.0, lane: Lane = Lane.SOON) -> None:
        """Have `key` worked on after `delay` seconds."""
        self._schedule.add(key, self._clock() + delay, lane)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                self._wake.clear()
                self._start_due()
                await self._wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start_due(self) -> None:
        while self._schedule.running < self._concurrency:
            key = self._schedule.pop(self._clock())
            if key is None:
                break
            task = asyncio.create_task(self._work(key), name=f"reconcile {key}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if self._schedule.running < self._concurrency:
            self.last_progress = self._clock()

    async def _wait(self) -> None:
        """Until something is added or finished, or the next key is due; at most a second."""
        due = self._schedule.next_due()
        seconds = 1.0 if due is None else min(1.0, due - self._clock())
        if self._schedule.running >= self._concurrency:
            seconds = 1.0
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _work(self, key: str) -> None:
        lane = Lane.LATER
        try:
            again = await self._handler(key)
            self._schedule.succeeded(key)
        except Exception as error:  # noqa: BLE001 - one binding must never stop the others
            again, lane = self._schedule.failed(key), Lane.SOON
            log.warning("reconcile failed", binding=key, error=repr(error), retry_seconds=again)
        finally:
            self._schedule.done(key)
            self.last_progress = self._clock()
            self._wake.set()
        if again is not None:
            self.add(key, again, lane)
