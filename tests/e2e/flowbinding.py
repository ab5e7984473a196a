"""The `flowbinding` command, as a user of the testbed runs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from typer.testing import CliRunner, Result

from e2e.cluster import Namespace
from flowbinding_cli.main import app


def flowbinding(namespace: Namespace, *arguments: str) -> Result:
    """Run a command in a namespace, to its end."""
    bed = namespace.bed
    words = [*arguments, "-n", namespace.name, "--kubeconfig", str(bed.kubeconfig)]
    # In kind, Pods and this machine reach the broker in different ways.
    if bed.bootstrap != bed.pod_bootstrap and arguments[0] not in ("watch", "config", "run"):
        words += ["--bootstrap-servers", bed.bootstrap]
    # Commands have an event loop of their own; tests may have one in this thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(CliRunner().invoke, app, words, catch_exceptions=False).result(120)
