"""How each system is started: one process, with its output topic on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from testbed.cache import content_hash, ensure
from testbed.paths import PROJECT
from testbed.report import Report
from testbed.state import free_port
from worker.cases import OURS, Case, Ordering, System

REQUIREMENTS = PROJECT / "requirements"
LOCK = REQUIREMENTS / "bench.lock"
FASTSTREAM = Path(__file__).with_name("baselines") / "faststream_app.py"
API_KEY = "sk-benchmark"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a system works.

    Attributes:
        folder: For its files and its log.
        bootstrap: The broker.
        topic: To read.
        output: To write.
        group: Its consumer group.
        server: URL of the stand-in flow server.
    """

    folder: Path
    bootstrap: str
    topic: str
    output: str
    group: str
    server: str

    @property
    def run_url(self) -> str:
        """Where a flow is run."""
        return f"{self.server}/api/v1/run/bench"


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    Attributes:
        command: The command line.
        env: Its environment.
        health: URL that answers 200 when it works; empty without one.
    """

    command: list[str]
    env: Mapping[str, str]
    health: str = ""


def program(case: Case, place: Place, profile: Path | None = None) -> Program:
    """The program of a case; `profile` is a file for the worker's profile."""
    if case.system in OURS:
        return _worker(case, place, profile)
    if case.system in (System.HTTPX, System.AIOHTTP):
        client = case.system.value.rpartition(" ")[2]
        start = [sys.executable, "-m", "worker.baselines.handwritten"]
        return Program([*start, *_arguments(case, place), client], os.environ)
    mode = "first" if case.system is System.FASTSTREAM_FIRST else "safe"
    start = [str(faststream_python()), str(FASTSTREAM)]
    # The project's own packages are none of its business.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return Program([*start, *_arguments(case, place), mode], env)


def faststream_python() -> Path:
    """The Python of an environment with the locked FastStream; installs it when needed."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    digest = content_hash(REQUIREMENTS, [LOCK], version)
    return ensure("faststream", digest, _install) / "bin" / "python"


def _install(folder: Path) -> None:
    with Report() as report, report.step("Installing FastStream into an environment of its own"):
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        install = ["install", "-q", "--no-deps", "--require-hashes", "-r", str(LOCK)]
        subprocess.run([*pip, "--no-input", *install], check=True)


def _arguments(case: Case, place: Place) -> list[str]:
    return [
        *(place.bootstrap, place.topic, place.output, place.group, place.run_url),
        str(case.slots),
    ]


def _worker(case: Case, place: Place, profile: Path | None) -> Program:
    secret = place.folder / "secrets" / "langflow"
    secret.mkdir(parents=True, exist_ok=True)
    (secret / "key").write_text(API_KEY)
    manifest = place.folder / "binding.yaml"
    manifest.write_text(yaml.safe_dump(_manifest(case, place)))
    port = free_port()
    launch = (
        ["-m", "worker.profiled", str(profile)] if profile else ["-m", "flowbinding_worker.main"]
    )
    run = ["run", "--file", str(manifest), "--http-address", f"127.0.0.1:{port}"]
    env = {
        **os.environ,
        "FLOWBINDING_SECRETS": str(place.folder / "secrets"),
        "FLOWBINDING_SPOOL": str(place.folder / "spool"),
        "FLOWBINDING_INSTANCE": "bench",
    }
    return Program([sys.executable, *launch, *run], env, f"http://127.0.0.1:{port}/readyz")


def _manifest(case: Case, place: Place) -> dict[str, object]:
    """A binding as a user would write it, with the default log level, envelope and API key."""
    ordering = Ordering.NONE if case.ordering is Ordering.OWN else case.ordering
    return {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "metadata": {"name": "bench", "namespace": "bench"},
        "spec": {
            "source": {"topic": place.topic, "consumerGroup": place.group},
            "kafka": {"bootstrapServers": place.bootstrap},
            "flow": {
                "url": place.server,
                "id": "bench",
                "input": "{{ value.text }}",
                "apiKeySecretRef": {"name": "langflow", "key": "key"},
            },
            "concurrency": {"perReplica": case.slots, "ordering": ordering.value},
            "output": {
                "topic": place.output,
                "guarantee": "ExactlyOnce" if case.system is System.EXACTLY_ONCE else "AtLeastOnce",
            },
        },
    }
