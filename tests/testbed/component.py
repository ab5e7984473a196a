"""One program of the testbed, which can be stopped, killed and started again at its address."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from testbed import files, process
from testbed.errors import TestbedError
from testbed.state import State
from testbed.waiting import wait_until


@dataclass(frozen=True)
class Program:
    """How to run a component and how to see that it works."""

    name: str
    command: Callable[[], list[str]]
    """Asked only before a start: it may have to build the program first."""
    log: Path
    ready: Callable[[], bool]
    """Asked again and again while it starts; never raises for "not yet"."""
    prepare: Callable[[], None] = lambda: None
    """Called before each start."""
    env: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 60
    stop_seconds: float = 10


class Component:
    """A program with its process. Another program run may have started that process."""

    def __init__(self, program: Program, state: State) -> None:
        """Attach to what ``state`` remembers."""
        self._program = program
        self._state = state

    @property
    def name(self) -> str:
        """The name of the component."""
        return self._program.name

    @property
    def log(self) -> Path:
        """Its log, kept over restarts."""
        return self._program.log

    @property
    def pid(self) -> int | None:
        """Its process number, or None while it does not run."""
        found = self._state.process(self.name)
        return found.pid if found and found.running else None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.pid is not None

    @property
    def ready(self) -> bool:
        """Whether it runs and answers."""
        return self.running and self._program.ready()

    @property
    def outdated(self) -> bool:
        """Whether it runs, but not as wanted: built anew since, or with other flags."""
        found = self._state.process(self.name)
        return bool(found and found.running and found.command != tuple(self._program.command()))

    def launch(self) -> None:
        """Start it unless it runs as wanted, without waiting until it answers."""
        if self.outdated:
            self.stop()
        elif self.running:
            return
        self._program.prepare()
        environment = {**_inherited(), **self._program.env}
        started = process.spawn(self._program.command(), self._program.log, environment)
        self._state.record(self.name, started)

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until it answers."""
        wait_until(
            self._answers,
            what=f"{self.name} is ready",
            timeout=self._program.start_seconds,
            explain=self._log_tail,
        )

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def _end(self, sig: signal.Signals) -> None:
        if found := self._state.process(self.name):
            found.end(sig, self._program.stop_seconds)
            # Ended on purpose. One that is remembered and gone has crashed.
            self._state.forget(self.name)

    def _answers(self) -> bool:
        if not self.running:
            raise TestbedError(f"{self.name} ended while it started", hint=self._log_tail())
        return self._program.ready()

    def _log_tail(self) -> str:
        return f"{self.log}:\n{files.tail(self.log)}"


def _inherited() -> dict[str, str]:
    """The caller's environment without what would change what a component does.

    A proxy must not stand between components on loopback, and the tester's KUBECONFIG and the
    project's own settings are not the component's.
    """
    dropped = ("KUBE", "FLOWBINDING", "ETCD_", "KAFKA_", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and not name.lower().endswith("_proxy")
    }
