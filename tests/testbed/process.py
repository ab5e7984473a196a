"""Processes that outlive the command that started them, and are found again by a later one.

Linux only: /proc says whether a process number still means the process that we started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from testbed.errors import TestbedError


@dataclass(frozen=True)
class Process:
    """Who a process is. Numbers are reused, so its start and its command line belong to it."""

    pid: int
    boot: str
    started: int
    command: tuple[str, ...]

    @property
    def running(self) -> bool:
        """Whether exactly this process is still there; a zombie is not."""
        _reap(self.pid)
        found = describe(self.pid)
        # While the kernel replaces the program of a process just started, the line is empty.
        return found is not None and found in (self, replace(self, command=("",)))

    def end(self, sig: signal.Signals = signal.SIGTERM, grace: float = 10) -> bool:
        """Send a signal, wait ``grace`` seconds, then kill. True when it ended by itself."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            # Looked at after opening: from here on the handle cannot mean another process.
            if not self.running:
                return True
            signal.pidfd_send_signal(handle, sig)
            if _ended(handle, grace):
                return True
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            _ended(handle, grace)
            return False
        finally:
            os.close(handle)
            _reap(self.pid)


def spawn(command: list[str], log: Path, env: Mapping[str, str]) -> Process:
    """Start a process in a session of its own, so that no terminal and no parent ends it.

    posix_spawn and not subprocess: nobody here waits for it, and a Popen object that is dropped
    while its process runs is a ResourceWarning in the tests.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    try:
        pid = os.posix_spawn(
            command[0],
            command,
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM],
        )
    except OSError as error:
        raise TestbedError(f"cannot start {command[0]}: {error.strerror}") from error
    found = describe(pid)
    # A process that failed at once is gone already: no start time matches -1.
    return Process(pid, boot_id(), found.started if found else -1, tuple(command))


def describe(pid: int) -> Process | None:
    """The process that has this number now, or None."""
    folder = Path("/proc") / str(pid)
    try:
        stat = (folder / "stat").read_text()
        command = (folder / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in brackets and may hold anything, also spaces and brackets.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    words = command.decode(errors="surrogateescape").rstrip("\0").split("\0")
    return Process(pid, boot_id(), int(fields[19]), tuple(words))


def boot_id() -> str:
    """Start times are counted from the boot; this tells two boots apart."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def children_with(variable: str, value: str) -> list[Process]:
    """Processes of this user whose environment holds ``variable=value``."""
    wanted = f"{variable}={value}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(describe(int(folder.name)))
    return [process for process in found if process]


def _reap(pid: int) -> None:
    # Ours when this very program started it; otherwise init does it.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _ended(handle: int, seconds: float) -> bool:
    # A process handle becomes readable when the process has ended.
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
