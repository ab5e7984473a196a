"""What a testbed remembers between commands: its addresses and its processes.

Every read goes to the file and every change happens under a lock, because a test, a second test
worker and a person's ``make down`` may all use the same testbed.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from testbed import files
from testbed.errors import TestbedError
from testbed.process import Process

LOOPBACK = "127.0.0.1"
# Below Linux's range for outgoing connections (32768 and up): a port from that range may be lent
# to some client while its component is stopped, and then it cannot start again. It also lies
# below Kubernetes' node ports.
PORTS = range(20_000, 30_000)


class State:
    """The file ``state.json`` of a testbed, or of a Kafka broker on its own."""

    def __init__(self, path: Path) -> None:
        """Nothing is read or written before it is asked for."""
        self.path = path

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the file."""
        return self._read().get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Change a value of the file."""
        self._change(lambda content: content.__setitem__(key, value))

    def port(self, name: str, host: str = LOOPBACK) -> int:
        """The port of this name: chosen free the first time, the same ever after."""
        ports: dict[str, int] = self.get("ports", {})
        if name not in ports:
            self._change(lambda content: _choose_port(content, name, host))
            ports = self.get("ports")
        return ports[name]

    def process(self, name: str) -> Process | None:
        """The process last started under this name, running or not."""
        stored = self.get("processes", {}).get(name)
        return Process(**{**stored, "command": tuple(stored["command"])}) if stored else None

    def processes(self) -> dict[str, Process]:
        """All processes, in the order in which they were first started."""
        found = {name: self.process(name) for name in self.get("processes", {})}
        return {name: process for name, process in found.items() if process}

    def record(self, name: str, process: Process) -> None:
        """Remember a process."""
        self._change(
            lambda content: content.setdefault("processes", {}).__setitem__(name, asdict(process))
        )

    def forget(self, name: str) -> None:
        """Remember that there is no process of this name any more."""
        self._change(lambda content: content.get("processes", {}).pop(name, None))

    def _read(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise TestbedError(
                f"{self.path} cannot be read: {error}", hint="Remove it and try again."
            ) from error
        return content

    def _change(self, change: Callable[[dict[str, Any]], object]) -> None:
        with files.locked(self.path.with_suffix(".lock")):
            content = self._read()
            change(content)
            files.write(self.path, json.dumps(content, indent=1) + "\n", 0o600)


def _choose_port(content: dict[str, Any], name: str, host: str) -> None:
    ports: dict[str, int] = content.setdefault("ports", {})
    # Another thread may have been first, between our look and our lock.
    ports.setdefault(name, free_port(host, taken=ports.values()))


def free_port(host: str = LOOPBACK, taken: Iterable[int] = ()) -> int:
    """A port that nobody listens on, outside the range of outgoing connections."""
    used = set(taken)
    for port in random.sample(PORTS, len(PORTS)):
        if port not in used and is_free(host, port):
            return port
    raise TestbedError(f"no free port between {PORTS.start} and {PORTS.stop} on {host}")


def is_free(host: str, port: int) -> bool:
    """Whether this address can be listened on."""
    with socket.socket() as probe:
        # As servers do: a connection of a stopped one that lingers is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
    return True
