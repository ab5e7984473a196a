"""A process that runs one flow: requests come over a socket, several at once."""

from __future__ import annotations

import asyncio
import contextvars
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from typing import Any, TypeVar

from flowbinding_worker.flows.processes.frames import frame, read_frame

LOADED = 0
"""Number of the answer that the flow is loaded."""
MAX_MESSAGE = 8192
"""Characters kept of an error's words."""

_STACK = 8 * 1024 * 1024
"""Of a thread; nearly all of it is never used."""
_NO_THREAD = "can't start new thread"
"""What Python says when there is no memory for a thread's stack."""

T = TypeVar("T")


class Fault(StrEnum):
    """How a run, or loading a flow, has failed.

    UNFIT: No graph can be built of the flow's document, with the run's tweaks.
    PROTECTED: A tweak is for a field that lfx protects.
    TIMEOUT: It took too long.
    MISSING: A Python package is missing.
    CODE: A component's code does not compile.
    MEMORY: The process may not take so much memory.
    RAISED: A component has raised something.
    """

    UNFIT = "Unfit"
    PROTECTED = "Protected"
    TIMEOUT = "Timeout"
    MISSING = "Missing"
    CODE = "Code"
    MEMORY = "Memory"
    RAISED = "Raised"


_threads: contextvars.ContextVar[list[Future[Any]] | None] = contextvars.ContextVar(
    "threads", default=None
)
"""Calls that the current run has made in threads."""


class _Threads(ThreadPoolExecutor):
    """Remembers which run has asked for what: a thread that goes on after its run is no good."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        asked = _threads.get()
        if asked is not None:
            asked.append(future)
        return future


def serve(engine: Any, connection: socket.socket) -> None:
    """Answer requests until the worker is gone."""
    asyncio.run(_Server(engine, connection).run())


class _Server:
    def __init__(self, engine: Any, connection: socket.socket) -> None:
        self._engine = engine
        self._connection = connection
        self._document: dict[str, Any] = {}
        self._runs: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        first = await read_frame(reader)
        if first is None:
            return
        asyncio.get_running_loop().set_default_executor(_Threads(first["threads"]))
        self._load(first["document"])
        if first["memory"]:
            _limit_memory(first["memory"] + first["threads"] * _STACK)
        while (message := await read_frame(reader)) is not None:
            number = message["number"]
            if "cancel" in message:
                if number in self._runs:
                    self._runs[number].cancel()
                continue
            task = asyncio.create_task(self._answer(number, message))
            self._runs[number] = task
        # Threads of components may go on for ever; nobody waits for them.
        os._exit(0)

    def _load(self, document: dict[str, Any]) -> None:
        self._document = document
        try:
            self._engine.build(document, {}, {})
        # A component's code runs when it is built, and may raise anything.
        except Exception as error:  # noqa: BLE001
            self._tell(LOADED, self._failed(Fault.UNFIT, error))
        else:
            self._tell(LOADED, {"answer": {}})

    async def _answer(self, number: int, asked: dict[str, Any]) -> None:
        threads: list[Future[Any]] = []
        _threads.set(threads)
        try:
            told = await self._run(asked)
        except asyncio.CancelledError:
            # By the worker, which does not wait for it any more; or by the flow's own code.
            told = {"fault": Fault.RAISED, "message": "cancelled by the flow"}
        finally:
            del self._runs[number]
        # Who has met the limit may also be a neighbour of who has brought it about.
        limited = told.get("fault") is Fault.MEMORY
        told["stuck"] = limited or any(future.running() for future in threads)
        self._tell(number, told)

    async def _run(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            graph = self._engine.build(self._document, asked["tweaks"], asked["variables"])
        except Exception as error:  # noqa: BLE001
            protected = isinstance(error, self._engine.tweak_refused)
            return self._failed(Fault.PROTECTED if protected else Fault.UNFIT, error)
        try:
            async with asyncio.timeout(asked["seconds"]) as limit:
                return {"answer": await self._engine.run(graph, **asked["run"])}
        except Exception as error:  # noqa: BLE001
            if limit.expired():
                return {"fault": Fault.TIMEOUT, "message": ""}
            return self._failed(Fault.RAISED, error)

    def _failed(self, fault: Fault, error: Exception) -> dict[str, Any]:
        message = str(error) or type(error).__name__
        packages: list[str] = []
        for cause in () if fault is Fault.PROTECTED else _causes(error):
            if isinstance(cause, MemoryError) or str(cause) == _NO_THREAD:
                fault, message = Fault.MEMORY, str(cause) or "out of memory"
                break
            if isinstance(cause, ImportError):
                fault, message = Fault.MISSING, str(cause)
                packages = self._engine.packages(self._document)
                break
            if isinstance(cause, SyntaxError):
                fault, message = Fault.CODE, str(cause)
                break
        return {"fault": fault, "message": message[:MAX_MESSAGE], "packages": packages}

    def _tell(self, number: int, told: dict[str, Any]) -> None:
        about = {"number": number, "memory": _resident_bytes()}
        try:
            framed = frame(about | told)
        except (TypeError, ValueError, RecursionError) as error:
            # What a component answers with need not be JSON, nor have an end.
            message = f"the answer cannot be passed on as JSON: {error}"
            framed = frame(about | {"fault": Fault.RAISED, "message": message})
        except MemoryError:
            message = "no memory is left to pass its answer on"
            framed = frame(about | {"fault": Fault.MEMORY, "message": message, "stuck": True})
        self._writer.write(framed)


def _limit_memory(more: int) -> None:
    """Let the process have so many bytes more than it has; the system refuses what is beyond.

    What counts are private pages that can be written, used or not (RLIMIT_DATA). macOS does not
    hold anybody to it.
    """
    if sys.platform == "linux":
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            limit = int(file.read().split()[5]) * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _resident_bytes() -> int:
    """Memory of this process now; the most so far, where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
            1 if sys.platform == "darwin" else 1024
        )
