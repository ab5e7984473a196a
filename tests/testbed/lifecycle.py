"""Bringing the processes of a testbed up together, and down without leaving one behind."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from testbed.controlplane import NAMES, POD_MARK, STOP_SECONDS
from testbed.errors import TestbedError
from testbed.kube_flags import range_mark
from testbed.paths import Layout
from testbed.process import Process, children_with
from testbed.state import LOOPBACK, State, is_free

# The reverse of the order in which they need each other.
STOP_ORDER = (*reversed(NAMES), "kafka")


def all_or_nothing(state: State, starts: list[Callable[[], None]]) -> None:
    """Call all at once; when one fails or the user interrupts, end every process that is new."""
    before = set(state.processes().values())
    with concurrent.futures.ThreadPoolExecutor(len(starts)) as pool:
        running = [pool.submit(start) for start in starts]
        try:
            for done in concurrent.futures.as_completed(running):
                done.result()
        except BaseException:
            with _undisturbed():
                for waiting in running:
                    waiting.cancel()
                # A thread may be about to start one more; it ends once what it waits for is gone.
                while concurrent.futures.wait(running, timeout=0.1).not_done:
                    _kill_new(state, before)
                _kill_new(state, before)
            raise


def stop_all(state: State, layout: Layout) -> None:
    """Stop what runs; kill what does not stop in time."""
    processes = state.processes()
    # Others first: they are nobody's foundation.
    for name in (*(name for name in processes if name not in STOP_ORDER), *STOP_ORDER):
        if process := processes.get(name):
            process.end(grace=STOP_SECONDS.get(name, 10))
            state.forget(name)
    end_pods(layout)


def end_pods(layout: Layout) -> None:
    """End pods that outlived their node, which was killed."""
    for process in children_with(POD_MARK, str(layout.root)):
        process.end(signal.SIGKILL)


def crashed(state: State) -> bool:
    """Whether processes that nobody stopped are gone, all of them: a reboot, or a kill."""
    processes = state.processes().values()
    return bool(processes) and not any(process.running for process in processes)


def clean(state: State, layout: Layout) -> None:
    """Forget the data of a testbed that has crashed; addresses stay, as far as they are free."""
    end_pods(layout)
    for name in state.processes():
        state.forget(name)
    for folder in (layout.data, layout.logs):
        shutil.rmtree(folder, ignore_errors=True)
    addresses = [(LOOPBACK, port) for port in state.get("ports", {}).values()]
    if pod_range := state.get("pod-range"):
        addresses.append(range_mark(pod_range))
    if not all(is_free(host, port) for host, port in addresses):
        state.set("ports", {})
        state.set("pod-range", None)


def remove(layout: Layout) -> None:
    """Remove what a testbed writes, and nothing else: its folder may be the user's choice."""
    if not layout.state.exists():
        return
    for folder in (layout.data, layout.logs, layout.pki, layout.bin):
        shutil.rmtree(folder, ignore_errors=True)
    # The state last: until it is gone, the folder counts as a testbed that down has to clean.
    for file in (layout.kubeconfig, layout.env, layout.state.with_suffix(".lock"), layout.state):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        layout.root.rmdir()


def _kill_new(state: State, before: set[Process]) -> None:
    for name, process in state.processes().items():
        if process not in before:
            process.end(signal.SIGKILL)
            state.forget(name)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let a second Ctrl-C wait until what the first one started is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)


def require_marker(layout: Layout) -> None:
    """Refuse a folder that holds something else."""
    root = layout.root
    if root.exists() and not layout.state.exists() and any(root.iterdir()):
        raise TestbedError(f"{root} is neither empty nor a testbed", hint="Name another folder.")
