"""The messages that run, or whose result waits to be delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from flowbinding_worker.job import Job
from flowbinding_worker.tracker import Tracker

CANCEL_SECONDS = 1.0
"""How long cancelled runs may take to notice; afterwards they have no effect anyway."""


class Runs:
    """What each message waits for: the task that runs it, then the delivery of its result."""

    def __init__(self) -> None:
        self._futures: dict[Job, asyncio.Future[Any]] = {}
        self._waiting: list[set[Job]] = []
        self._less = asyncio.Event()

    def watch(self, future: asyncio.Future[Any], job: Job) -> None:
        """A message waits for `future` from now on; cancelling that ends it."""
        self._futures[job] = future

    def waits(self, job: Job, future: asyncio.Future[Any]) -> bool:
        """Whether a message waits for `future`."""
        return self._futures.get(job) is future

    def over(self, job: Job) -> None:
        """A message waits for nothing any more."""
        del self._futures[job]
        if self._waiting:
            for late in self._waiting:
                late.discard(job)
            self._less.set()

    def unsettled(self, trackers: Collection[Tracker]) -> list[Job]:
        """Messages that run, or whose result is not delivered yet."""
        wanted = set(trackers)
        return [job for job in self._futures if job.tracker in wanted]

    async def wait(self, trackers: Collection[Tracker], seconds: float, cut: asyncio.Event) -> None:
        """Wait for what of `trackers` is unsettled now; not over `seconds`, nor beyond `cut`."""
        late = set(self.unsettled(trackers))
        if not late:
            return
        everything = asyncio.ensure_future(self._gone(late))
        enough = asyncio.ensure_future(cut.wait())
        both = {everything, enough}
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()

    async def _gone(self, late: set[Job]) -> None:
        self._waiting.append(late)
        try:
            while late:
                self._less.clear()
                await self._less.wait()
        finally:
            self._waiting = [other for other in self._waiting if other is not late]

    async def cancel(self, trackers: Collection[Tracker]) -> int:
        """Cancel what is unsettled.

        Returns:
            How many messages that were.
        """
        late = [self._futures[job] for job in self.unsettled(trackers)]
        for future in late:
            future.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        return len(late)

    def cancel_retired(self) -> None:
        """Cancel what has no effect any more, without waiting."""
        for job, future in self._futures.items():
            if job.tracker.retired:
                future.cancel()
