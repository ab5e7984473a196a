"""``python -m testbed``: the testbed from the command line and from make."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from testbed import kind, memory
from testbed.bed import OPERATOR_NAMESPACE, Testbed
from testbed.errors import TestbedError
from testbed.report import Report

app = typer.Typer(
    help="A real Kafka and a real Kubernetes API server on this machine, without Docker.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
KafkaOnly = Annotated[bool, typer.Option("--kafka-only", help="No Kubernetes.")]


@app.command()
def up(kafka_only: KafkaOnly = False) -> None:
    """Start what does not run, building it first when needed."""
    with Report() as report:
        testbed = Testbed.ensure(kubernetes=not kafka_only, report=report)
    typer.echo(f"Kafka at {testbed.bootstrap}; to use the testbed: . {testbed.layout.env}")


@app.command()
def down() -> None:
    """Stop everything and remove its data; what was built stays in the cache."""
    with Report() as report:
        Testbed(report=report).down()


@app.command()
def build(kafka_only: KafkaOnly = False) -> None:
    """Fetch and build everything, and start nothing."""
    with Report() as report:
        Testbed(report=report).build(kubernetes=not kafka_only)


@app.command()
def status() -> None:
    """Show the components; exit code 1 when one of them does not answer."""
    testbed = Testbed.load()
    if context := testbed.kind_context:
        typer.echo(f"in the kind cluster of the context {context}; Kafka at {testbed.bootstrap}")
        return
    table = Table("component", "process", "state", "memory")
    healthy = True
    for component in testbed.components:
        pid, ready = component.pid, component.ready
        healthy &= ready
        state = "ready" if ready else "not ready" if pid else "stopped"
        used = f"{memory.proportional_mib(pid)} MiB" if pid else ""
        table.add_row(component.name, str(pid or ""), state, used)
    Console().print(table)
    if not healthy:
        raise typer.Exit(1)


@app.command()
def env() -> None:
    """Print what a shell needs: eval "$(python -m testbed env)"."""
    typer.echo(Testbed.load().layout.env.read_text(), nl=False)


@app.command()
def logs(component: str, follow: Annotated[bool, typer.Option("--follow", "-f")] = False) -> None:
    """Print the log of a component."""
    log = Testbed.load().component(component).log
    if not log.exists():
        raise TestbedError(f"{component} has written no log yet")
    if follow:
        os.execvp("tail", ["tail", "-n", "+1", "-F", str(log)])
    typer.echo(log.read_text(errors="replace"), nl=False)


@app.command()
def install(
    values: Annotated[Path | None, typer.Option("--values", "-f", help="Helm values.")] = None,
    namespace: str = OPERATOR_NAMESPACE,
) -> None:
    """Install the operator from this checkout's chart, into a testbed that is up."""
    content: dict[str, Any] = (yaml.safe_load(values.read_text()) or {}) if values else {}
    with Report() as report, report.step(f"Operator in {namespace}"):
        Testbed.load().install_operator(content, namespace)


@app.command("kind-up")
def kind_up() -> None:
    """Create a kind cluster (needs Docker and kind)."""
    with Report() as report, report.step("kind cluster"):
        kind.create()


@app.command("kind-down")
def kind_down() -> None:
    """Delete the kind cluster."""
    with Report() as report, report.step("deleting the kind cluster"):
        kind.delete()


def main() -> int:
    """Run a command; errors are told in sentences."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        app(standalone_mode=True)
    except TestbedError as error:
        console.print(f"error: {error.message}", style="bold red", markup=False)
        if error.hint:
            console.print(error.hint, markup=False)
        return error.exit_code
    except subprocess.SubprocessError as error:
        console.print(f"error: {error}", style="bold red", markup=False)
        return 1
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: whatever was started is stopped first."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
