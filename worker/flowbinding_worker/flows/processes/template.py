"""The process that imports lfx once, and from which those that run flows are forked.

Importing lfx takes seconds and 190 MB. A fork of a process that has it takes milliseconds and
shares that memory, so that a process that hangs or grows is cheap to throw away. Nothing else
happens here: no thread, no connection, no flow's code, which a fork could tear.

    worker ──F, K──▶ template ──fork──▶ process ──▶ process ──▶ …
       ▲  └──────────── requests, over a socket each ──▲
       └── ready, missing, ended (JSON lines)

The template ends with the worker, as its end of the control socket closes; the processes end with
the template (PR_SET_PDEATHSIG), also when it is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from flowbinding_worker.flows.processes.child import serve

COMMAND = struct.Struct(">cQ")
"""What the worker sends: FORK, with the new process's socket, or KILL; and the process's number."""
FORK, KILL = b"F", b"K"

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CRASHED = 70

Serve = Callable[[Any, socket.socket], None]


class Template:
    """Forks processes, kills them, and tells when they have ended.

    Args:
        engine: What they run flows with.
        control: The worker's commands.
        events: File descriptor of the worker's pipe.
    """

    def __init__(self, engine: Any, control: socket.socket, events: int) -> None:
        self._engine = engine
        self._control = control
        self._events = events
        self._numbers: dict[int, int] = {}
        """Of the processes that run, by process id."""
        self._woken, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._woken, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        """Serve the worker until it is gone."""
        tell(self._events, {"ready": True})
        while True:
            ready, _, _ = select.select([self._control.fileno(), self._woken], [], [])
            if self._woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if self._control.fileno() in ready and not self._obey():
                break
        for process in self._numbers:
            _kill(process)
            os.waitpid(process, 0)

    def _obey(self) -> bool:
        """Do what the worker says; False when it is gone."""
        command, sockets, _, _ = socket.recv_fds(self._control, COMMAND.size, 1)
        if len(command) < COMMAND.size:
            return False
        what, number = COMMAND.unpack(command)
        if what == FORK:
            self._fork(number, sockets[0])
        else:
            for process, known in self._numbers.items():
                if known == number:
                    _kill(process)
        return True

    def _fork(self, number: int, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        parent = os.getpid()
        try:
            process = os.fork()
        except OSError as error:
            # No memory, or too many processes: that is no reason to end the others.
            os.close(descriptor)
            sys.stderr.write(f"no process can be forked: {error.strerror}\n")
            tell(self._events, {"ended": number, "status": _CRASHED})
            return
        if process == 0:
            self._become(parent, descriptor)
        os.close(descriptor)
        self._numbers[process] = number
        with contextlib.suppress(OSError):
            os.setpgid(process, process)

    def _become(self, parent: int, descriptor: int) -> NoReturn:
        """Be the new process, and never return."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(OSError):
                os.setpgid(0, 0)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == parent:
                self._control.close()
                os.close(self._events)
                _be_first_to_go()
                _reseed()
                serve(self._engine, socket.socket(fileno=descriptor))
                os._exit(0)
        except BaseException:  # noqa: BLE001 - whatever it is, the template's code must not go on
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(_CRASHED)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            number = self._numbers.pop(process, None)
            # Others are orphans: what components have started.
            if number is not None:
                _kill(process)
                code = os.waitstatus_to_exitcode(status)
                tell(self._events, {"ended": number, "status": code})


def main() -> None:
    """Import the engine, say so, and serve: `template.py CONTROL MODULE`.

    CONTROL is the control socket's file descriptor. MODULE has a function `load` that gives the
    engine.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    events = os.dup(1)
    # Components may print.
    os.dup2(2, 1)
    faulthandler.enable()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    # Its threads would not survive a fork.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        engine = importlib.import_module(sys.argv[2]).load()
    except ImportError as error:
        tell(events, {"missing": str(error)})
        return
    gc.collect()
    gc.freeze()
    Template(engine, control, events).run()
    # Only what has to be done: taking lfx apart takes longer than the worker waits.
    atexit._run_exitfuncs()
    os._exit(0)


def tell(events: int, event: dict[str, Any]) -> None:
    """Write an event; nobody may be there to read it any more."""
    with contextlib.suppress(BrokenPipeError):
        os.write(events, json.dumps(event).encode() + b"\n")


def _kill(process: int) -> None:
    """Kill a process, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _be_first_to_go() -> None:
    """When memory runs out, the kernel shall take this process and not the worker."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:  # noqa: PTH123
        adjusted = min(1000, int(file.read()) + 200)
        file.seek(0)
        file.write(str(adjusted))


def _reseed() -> None:
    """Python seeds its own random numbers anew after a fork; numpy does not."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


if __name__ == "__main__":
    main()
