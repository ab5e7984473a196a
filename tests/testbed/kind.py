"""The testbed in a kind cluster, for those who have Docker: the same Kafka and the same chart."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from testbed.controlplane import IMAGE
from testbed.errors import TestbedError
from testbed.guard import KIND_PREFIX
from testbed.operator_install import TAG
from testbed.paths import PROJECT, SOURCES
from testbed.toolchain import Note

CLUSTER = "flowbinding"
CONFIG = SOURCES / "kind.yaml"
KAFKA = SOURCES / "kind-kafka.yaml"
KAFKA_NAMESPACE = "flowbinding-kafka"
# Host port of kind.yaml, and the port that the broker advertises to the host.
HOST_BOOTSTRAP = "127.0.0.1:32092"
POD_BOOTSTRAP = f"kafka.{KAFKA_NAMESPACE}.svc.cluster.local:9092"

Run = Callable[[list[str]], str]


def run(command: list[str]) -> str:
    """Run a command; its errors are the user's to read."""
    done = subprocess.run(
        [_found(command[0]), *command[1:]], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TestbedError(f"{' '.join(command)} failed", hint=done.stderr.strip())
    return done.stdout


def _found(program: str) -> str:
    path = shutil.which(program)
    if not path:
        raise TestbedError(
            f"{program} is not installed, and a kind cluster needs it",
            hint="Without KUBECONFIG the testbed needs neither Docker nor kind: make up.",
        )
    return path


def create(execute: Run = run) -> None:
    """Make the cluster unless it is there."""
    execute(["docker", "version"])
    if CLUSTER not in execute(["kind", "get", "clusters"]).split():
        execute(["kind", "create", "cluster", "--name", CLUSTER, "--config", str(CONFIG)])


def delete(execute: Run = run) -> None:
    """Remove the cluster with everything in it."""
    execute(["kind", "delete", "cluster", "--name", CLUSTER])


def tools() -> dict[str, list[str]]:
    """The machine's own kubectl and Helm: who has kind has these."""
    return {name: [_found(name)] for name in ("kubectl", "helm")}


def access(context: str, execute: Run = run) -> str:
    """A kubeconfig of this one cluster: switching contexts later does not redirect us."""
    view = ["kubectl", "config", "view", "--minify", "--flatten", "--raw", "--context", context]
    return execute(view)


def prepare(context: str, kubeconfig: Path, note: Note, execute: Run = run) -> None:
    """Bring the project's image and a Kafka into the cluster of a context."""
    image = f"{IMAGE}:{TAG}"
    note("building the image")
    execute(["docker", "build", "--tag", image, str(PROJECT)])
    note("loading the image")
    name = context.removeprefix(KIND_PREFIX)
    execute(["kind", "load", "docker-image", image, "--name", name])
    note("starting Kafka")
    kubectl = ["kubectl", "--kubeconfig", str(kubeconfig)]
    execute([*kubectl, "apply", "--filename", str(KAFKA)])
    rollout = ["rollout", "status", "deployment/kafka", "--timeout=180s"]
    execute([*kubectl, "--namespace", KAFKA_NAMESPACE, *rollout])


def remove(kubeconfig: Path, execute: Run = run) -> None:
    """Take Kafka out again; the cluster is the user's and stays."""
    kubectl = ["kubectl", "--kubeconfig", str(kubeconfig)]
    execute([*kubectl, "delete", "namespace", KAFKA_NAMESPACE, "--ignore-not-found"])
