"""The worker's side of the template: starts it, has it fork and kill, and hears who has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process

from flowbinding_worker.flows.processes.template import COMMAND, FORK, KILL

START_SECONDS = 120.0
"""How long the template may take to import what it runs flows with."""
_CLOSE_SECONDS = 1.0


class EngineMissingError(Exception):
    """The engine cannot be imported, or its process does not start."""


class Forks:
    """Processes forked from one template.

    Args:
        module: Its function `load` gives what they run flows with.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._ended: dict[int, asyncio.Future[int | None]] = {}
        self._count = 0
        self._listening: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    @property
    def alive(self) -> bool:
        """Whether the template is there, and ready."""
        return self._listening is not None and not self._listening.done()

    async def start(self) -> None:
        """Start the template, unless it is there; it takes seconds.

        Raises:
            EngineMissingError: It has nothing to run flows with.
        """
        async with self._starting:
            if self.alive:
                return
            await self.close()
            ours, theirs = socket.socketpair()
            self._control = ours
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-W", "ignore", "-m"),
                    *("flowbinding_worker.flows.processes.template", str(theirs.fileno())),
                    self._module,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=PIPE,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    # Ctrl-C is for the worker, which lets its runs end.
                    start_new_session=True,
                )
            try:
                async with asyncio.timeout(START_SECONDS):
                    event = await self._event(self._process)
            except TimeoutError:
                await self.close()
                text = f"its process was not ready within {START_SECONDS:g} s"
                raise EngineMissingError(text) from None
            if "ready" not in event:
                how = ended_how(await self._process.wait())
                await self.close()
                raise EngineMissingError(str(event.get("missing", f"its process {how}")))
            self._listening = asyncio.create_task(self._listen(self._process))

    def fork(self) -> Fork:
        """A new process.

        Raises:
            OSError: The template is gone.
        """
        if self._control is None:
            raise BrokenPipeError("no template")
        self._count += 1
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                command = COMMAND.pack(FORK, self._count)
                socket.send_fds(self._control, [command], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        ended = asyncio.get_running_loop().create_future()
        self._ended[self._count] = ended
        return Fork(self, self._count, ours, ended)

    def kill(self, number: int) -> None:
        """Kill a process, and all that it has started."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.sendall(COMMAND.pack(KILL, number))

    async def close(self) -> None:
        """End the template, which kills the others."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            try:
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await process.wait()
            except TimeoutError:
                # It is still importing.
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._listening is not None:
            await self._listening
            self._listening = None

    async def _event(self, process: Process) -> dict[str, object]:
        line = await process.stdout.readline() if process.stdout is not None else b""
        event: dict[str, object] = json.loads(line) if line.endswith(b"\n") else {}
        return event

    async def _listen(self, process: Process) -> None:
        while event := await self._event(process):
            number, status = event["ended"], event["status"]
            if isinstance(number, int) and isinstance(status, int):
                self._end(number, status)
        # The template is gone, and with it all that it has forked.
        for number in tuple(self._ended):
            self._end(number, None)

    def _end(self, number: int, status: int | None) -> None:
        ended = self._ended.pop(number, None)
        if ended is not None and not ended.done():
            ended.set_result(status)


class Fork:
    """One process.

    Attributes:
        connection: The worker's end of its socket.
        ended: Its exit code, negative for a signal, once it has ended; None when nobody knows.
    """

    def __init__(
        self,
        forks: Forks,
        number: int,
        connection: socket.socket,
        ended: asyncio.Future[int | None],
    ) -> None:
        self._forks = forks
        self._number = number
        self.connection = connection
        self.ended = ended

    def kill(self) -> None:
        """Kill it, and all that it has started."""
        self._forks.kill(self._number)


def ended_how(status: int | None) -> str:
    """An exit code in words."""
    if status is None:
        return "ended"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (out of memory, or killed from outside)" if name == "SIGKILL" else ""
        return f"was killed by {name}{hint}"
    return f"ended with exit code {status}"


def _environment() -> dict[str, str]:
    """What flows may see: the Pod's variables, without those that are for the worker itself."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLOWBINDING")}
