"""Which process runs a message's flow, and when a process is replaced.

A run that takes too long is cancelled within its process, which ends coroutines. A component that
goes on in a thread cannot be ended like that: its process gets nothing more to do, and is killed
once its other runs have ended. A process that does not even say so, as its event loop is blocked,
is killed at once, with all its runs: nobody knows what became of those.

A message whose run went down with its process, or brought it down, runs alone the next time. So no
message is hit twice by others, and one that breaks its process breaks nobody else's run again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from flowbinding_worker.flows.processes.fork import EngineMissingError, Forks
from flowbinding_worker.flows.processes.handle import (
    Document,
    FlowProcess,
    Limits,
    ProcessEndedError,
    RunError,
)

KILL_AFTER_SECONDS = 2.0
"""How long a process may take to say that a run has timed out."""
_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """How many processes, and for how long.

    Attributes:
        most: Processes that run the flow, without those that only end what they have begun.
        threads: Of each, for components that are no coroutines.
        max_runs: Of a process before it is replaced.
        max_growth: Bytes that a process may grow by before it is replaced; 0 for no limit.
        max_memory: Bytes that it may allocate beyond what it has after loading; 0 for no limit.
    """

    most: int
    threads: int
    max_runs: int
    max_growth: int
    max_memory: int = 0


class Pool:
    """Runs flows in processes.

    Args:
        settings: How many, and for how long.
        forks: Makes them.
    """

    def __init__(self, settings: Settings, forks: Forks) -> None:
        self._settings = settings
        self._forks = forks
        self._processes: set[FlowProcess] = set()
        self._suspects: dict[str, None] = {}
        self._alone = asyncio.Semaphore(settings.most)

    async def start(self) -> None:
        """Get ready to fork.

        Raises:
            EngineMissingError: There is nothing to run flows with.
        """
        await self._forks.start()

    async def load(self, document: Document) -> None:
        """Have all processes load a flow.

        Raises:
            LoadError, EngineMissingError: It cannot be loaded.
        """
        await self._forks.start()
        self._retire_others(document)
        while len(self._fit(document)) < self._settings.most:
            self._fork(document)
        await asyncio.gather(*(process.loaded() for process in self._fit(document)))

    async def run(
        self, document: Document, key: str, asked: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Run a flow once.

        Args:
            document: The flow.
            key: The same when this runs again: then it runs alone if the process did not survive.
            asked: `tweaks`, `variables`, and `run`: what the engine's `run` takes.
            seconds: How long it may take.

        Returns:
            The engine's answer.

        Raises:
            RunError: It failed.
            ProcessEndedError: Its process ended meanwhile.
            LoadError, EngineMissingError: No process could be made for it.
        """
        await self._forks.start()
        if key not in self._suspects:
            return await self._run_in(self._pick(document), key, asked, seconds)
        async with self._alone:
            process = self._fork(document)
            process.retire()
            return await self._run_in(process, key, asked, seconds)

    async def close(self) -> None:
        """Kill all."""
        await self._forks.close()
        processes = tuple(self._processes)
        await asyncio.gather(*(process.gone for process in processes), return_exceptions=True)

    async def _run_in(
        self, process: FlowProcess, key: str, asked: dict[str, Any], seconds: float
    ) -> dict[str, Any]:
        self._suspects.pop(key, None)
        with process.held():
            await process.loaded()
            try:
                return await process.run(
                    {**asked, "seconds": seconds}, seconds + KILL_AFTER_SECONDS
                )
            except ProcessEndedError:
                self._suspect(key)
                raise
            except RunError as error:
                if error.stuck:
                    self._suspect(key)
                raise

    def _suspect(self, key: str) -> None:
        if len(self._suspects) >= _REMEMBERED:
            del self._suspects[next(iter(self._suspects))]
        self._suspects[key] = None

    def _fit(self, document: Document) -> list[FlowProcess]:
        return [it for it in self._processes if it.document is document and not it.retired]

    def _pick(self, document: Document) -> FlowProcess:
        self._retire_others(document)
        fit = self._fit(document)
        least = min(fit, key=lambda process: process.holders, default=None)
        if least is None or (least.holders and len(fit) < self._settings.most):
            return self._fork(document)
        return least

    def _retire_others(self, document: Document) -> None:
        for process in self._processes:
            if process.document is not document:
                process.retire()

    def _fork(self, document: Document) -> FlowProcess:
        try:
            fork = self._forks.fork()
        except OSError as error:
            raise EngineMissingError(f"no process can be started: {error.strerror}") from None
        settings = self._settings
        process = FlowProcess(
            fork,
            document,
            Limits(settings.threads, settings.max_runs, settings.max_growth, settings.max_memory),
        )
        self._processes.add(process)
        process.gone.add_done_callback(lambda _: self._processes.discard(process))
        return process
