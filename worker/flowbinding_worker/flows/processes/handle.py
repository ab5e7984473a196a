"""The worker's side of one process that runs a flow: its runs, its answers, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from flowbinding_worker.flows.processes.child import LOADED, Fault
from flowbinding_worker.flows.processes.fork import Fork, ended_how
from flowbinding_worker.flows.processes.frames import frame, read_frame

LOAD_SECONDS = 120.0
"""How long a flow may take to load: providers' packages are large."""
_CANCEL_SECONDS = 2.0
_LAST_WORDS_SECONDS = 1.0


class FaultError(Exception):
    """Something in a process has failed.

    Args:
        fault: How.
        message: In words.
        packages: To install, if the fault is a missing package.
        stuck: Whether something of it goes on in the process, which is therefore killed.
    """

    def __init__(
        self, fault: Fault, message: str, packages: tuple[str, ...] = (), *, stuck: bool = False
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.packages = packages
        self.stuck = stuck


class LoadError(FaultError):
    """The flow cannot be loaded, so that no message can run."""


class RunError(FaultError):
    """A run has failed."""


class ProcessEndedError(Exception):
    """The process has ended while it ran this; nobody knows how far it got."""


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A flow's JSON; each one read is another, even if it says the same."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may do.

    Attributes:
        threads: For components that are no coroutines.
        max_runs: After so many it gets nothing more to do.
        max_growth: Nor when it has grown by so many bytes; 0 for no limit.
        max_memory: Bytes that it may allocate beyond what it has after loading; 0 for no limit.
    """

    threads: int
    max_runs: int
    max_growth: int
    max_memory: int


@dataclass(frozen=True, slots=True)
class _Call:
    answer: asyncio.Future[dict[str, Any]]
    overdue: asyncio.TimerHandle


class FlowProcess:
    """One process, from its fork to its end.

    Args:
        fork: The process.
        document: What it loads.
        limits: What it may do.
    """

    def __init__(self, fork: Fork, document: Document, limits: Limits) -> None:
        self.document = document
        self.retired = False
        """Whether it gets nothing more to do."""
        self.holders = 0
        """Runs that are in it, or about to be."""
        self._fork = fork
        self._limits = limits
        self._calls: dict[int, _Call] = {}
        self._last = LOADED
        self._size = 0
        self._why = ""
        self._ended = ""
        self._writer: asyncio.StreamWriter | None = None
        self._loaded = self._expect(LOADED, LOAD_SECONDS)
        self.gone = asyncio.create_task(self._live())
        """Done when the process has ended."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """While this lasts, the process is not killed for having nothing more to do."""
        self.holders += 1
        try:
            yield
        finally:
            self.holders -= 1
            self._release()

    async def loaded(self) -> None:
        """Wait until it has loaded the flow.

        Raises:
            LoadError: It cannot.
        """
        await asyncio.shield(self._loaded)

    async def run(self, asked: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Run a flow; the process is killed when it has not answered after `seconds`.

        Raises:
            RunError, ProcessEndedError: It failed.
        """
        if self._ended:
            # It had loaded, and was gone before this came to run.
            raise ProcessEndedError(self._ended)
        self._last += 1
        number = self._last
        message = frame({"number": number, **asked})
        answer = self._expect(number, seconds)
        self._write(message)
        if number >= self._limits.max_runs:
            self.retire()
        try:
            return await answer
        except asyncio.CancelledError:
            self._cancel(number)
            raise

    def retire(self) -> None:
        """Give it nothing more to do; it is killed when nobody holds it any more."""
        self.retired = True
        self._release()

    def _release(self) -> None:
        if self.retired and not self.holders and not self._calls:
            self._fork.kill()

    def _expect(self, number: int, seconds: float) -> asyncio.Future[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        overdue = loop.call_later(seconds, self._overdue, number)
        self._calls[number] = _Call(answer, overdue)
        return answer

    def _cancel(self, number: int) -> None:
        """Nobody wants this answer any more."""
        call = self._calls.get(number)
        if call is not None:
            call.overdue.cancel()
            self._expect(number, _CANCEL_SECONDS)
            self._write(frame({"number": number, "cancel": True}))

    def _overdue(self, number: int) -> None:
        """It does not even say that the run has timed out: its event loop is blocked."""
        error: FaultError = RunError(Fault.TIMEOUT, "", stuck=True)
        if number == LOADED:
            error = LoadError(Fault.UNFIT, f"it did not load within {LOAD_SECONDS:g} s")
        _fail(self._calls.pop(number).answer, error)
        self._kill("was stopped, as another run in it did not end in time")

    def _kill(self, why: str) -> None:
        self._why = self._why or why
        self.retired = True
        self._fork.kill()

    def _write(self, message: bytes) -> None:
        if self._writer is not None:
            self._writer.write(message)

    async def _live(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._fork.connection)
        limits = {"threads": self._limits.threads, "memory": self._limits.max_memory}
        self._write(frame({**limits, "document": self.document.data}))
        reading = asyncio.create_task(self._read(reader))
        try:
            status = await self._fork.ended
            await asyncio.wait({reading}, timeout=_LAST_WORDS_SECONDS)
        finally:
            reading.cancel()
            self._writer.close()
            self.retired = True
        how = self._why or ended_how(status)
        self._ended = f"the process that ran the flow {how}"
        for number, call in self._calls.items():
            call.overdue.cancel()
            error: Exception = ProcessEndedError(self._ended)
            if number == LOADED:
                error = LoadError(Fault.UNFIT, f"the process that loads it {how}")
            _fail(call.answer, error)
        self._calls.clear()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while (message := await read_frame(reader)) is not None:
                self._take(message)
        # Whatever it sends that we cannot read.
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._kill(f"answered with what cannot be read ({type(error).__name__})")
        else:
            # Usually it is dead by now; a component may also have closed what it does not own.
            self._fork.kill()

    def _take(self, message: dict[str, Any]) -> None:
        number, memory = message["number"], message["memory"]
        stuck = bool(message.get("stuck"))
        if number == LOADED:
            self._size = memory
        grown = 0 < self._limits.max_growth <= memory - self._size
        call = self._calls.get(number)
        if call is not None:
            if "fault" not in message:
                if not call.answer.done():
                    call.answer.set_result(message["answer"])
            else:
                packages = tuple(message.get("packages", ()))
                fault = Fault(message["fault"])
                kind = LoadError if number == LOADED else RunError
                _fail(call.answer, kind(fault, message["message"], packages, stuck=stuck))
            # Not before: what cannot be read ends the process, and with it all calls.
            call.overdue.cancel()
            del self._calls[number]
        unloadable = number == LOADED and "fault" in message
        if stuck or grown or unloadable:
            self.retired = True
        self._release()


def _fail(answer: asyncio.Future[dict[str, Any]], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        # Nobody may wait for it, and that is fine.
        answer.exception()
