"""The tasks of messages that run, or whose result waits to be delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

from flowbinding_worker.job import Job
from flowbinding_worker.tracker import Tracker

CANCEL_SECONDS = 1.0
"""How long cancelled runs may take to notice; afterwards they have no effect anyway."""


class Runs:
    """Which message each task is for.

    Args:
        ended: Called when one has ended, whichever way.
    """

    def __init__(self, ended: Callable[[asyncio.Task[None]], None]) -> None:
        self._ended = ended
        self._tasks: dict[asyncio.Task[None], Job] = {}

    def watch(self, task: asyncio.Task[None], job: Job) -> None:
        """Take in a task."""
        self._tasks[task] = job
        task.add_done_callback(self._over)

    def unsettled(self, trackers: Collection[Tracker]) -> list[Job]:
        """Messages that run, or whose result is not delivered yet."""
        return [job for task, job in self._of(trackers) if not task.done()]

    async def wait(self, trackers: Collection[Tracker], seconds: float, cut: asyncio.Event) -> None:
        """Wait until nothing of `trackers` is unsettled; not over `seconds`, nor beyond `cut`."""
        late = [task for task, _ in self._of(trackers)]
        if not late:
            return
        everything = asyncio.ensure_future(asyncio.wait(late, timeout=seconds))
        enough = asyncio.ensure_future(cut.wait())
        await asyncio.wait({everything, enough}, return_when=asyncio.FIRST_COMPLETED)
        for task in (everything, enough):
            task.cancel()

    async def cancel(self, trackers: Collection[Tracker]) -> int:
        """Cancel what is unsettled.

        Returns:
            How many messages that were.
        """
        late = [task for task, _ in self._of(trackers)]
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=CANCEL_SECONDS)
        return len(late)

    def cancel_retired(self) -> None:
        """Cancel what has no effect any more, without waiting."""
        for task, job in self._tasks.items():
            if job.tracker.retired:
                task.cancel()

    def _of(self, trackers: Collection[Tracker]) -> list[tuple[asyncio.Task[None], Job]]:
        wanted = set(trackers)
        return [(task, job) for task, job in self._tasks.items() if job.tracker in wanted]

    def _over(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._ended(task)
