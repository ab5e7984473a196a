"""A keyed work queue, like controller-runtime's.

A key is one binding. Adding a key that waits already changes nothing (the earlier time wins);
adding one that is being worked on makes it run again afterwards. So one key never runs twice at
once, and however many events arrive, the last one is always followed by a run that sees its effect.

`Schedule` is the pure part, told the time by its caller; `WorkQueue` adds the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 60.0


class Schedule:
    """Which key is due when."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._running: set[str] = set()
        self._failures: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._due)

    @property
    def running(self) -> int:
        """Keys being worked on."""
        return len(self._running)

    def add(self, key: str, when: float) -> None:
        """Make `key` due at `when`, unless it is due earlier."""
        if when < self._due.get(key, float("inf")):
            self._due[key] = when
            if key not in self._running:
                heapq.heappush(self._heap, (when, key))

    def pop(self, now: float) -> str | None:
        """Take the next due key; it counts as running until `done`."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._running.add(key)
        return key

    def done(self, key: str) -> None:
        """Finish a run; what was added meanwhile becomes due."""
        self._running.discard(key)
        if key in self._due:
            heapq.heappush(self._heap, (self._due[key], key))

    def next_due(self) -> float | None:
        """When the next key will be due."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def failed(self, key: str) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        # float() first: 2 ** 2000 would be a huge integer.
        return min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** min(count, 16))

    def succeeded(self, key: str) -> None:
        """Forget the failures of `key`."""
        self._failures.pop(key, None)

    def _drop_stale(self) -> None:
        """Drop heap entries that an earlier `add` of the same key has replaced."""
        while self._heap:
            when, key = self._heap[0]
            if key not in self._running and self._due.get(key) == when:
                return
            heapq.heappop(self._heap)


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
        """Keys that wait, delayed ones included."""
        return len(self._schedule)

    def add(self, key: str, delay: float = 0.0) -> None:
        """Have `key` worked on after `delay` seconds."""
        self._schedule.add(key, self._clock() + delay)
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
        try:
            again = await self._handler(key)
            self._schedule.succeeded(key)
        except Exception as error:  # noqa: BLE001 - one binding must never stop the others
            again = self._schedule.failed(key)
            log.warning("reconcile failed", binding=key, error=repr(error), retry_seconds=again)
        finally:
            self._schedule.done(key)
            self.last_progress = self._clock()
            self._wake.set()
        if again is not None:
            self.add(key, again)
