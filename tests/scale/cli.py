"""``python -m scale``: measure a fleet of bindings on a testbed of its own."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from results import RESULTS
from results import write as write_section
from scale import report
from scale.fleet import Fleet
from scale.measure import Result, measure
from testbed import Testbed

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Number = Annotated[list[int], typer.Option("--bindings", min=10, help="How many; repeatable.")]


@app.command()
def main(
    bindings: Number = [1000],  # noqa: B006 - typer reads it
    per_topic: Annotated[int, typer.Option(min=1, help="Bindings that share a topic.")] = 10,
    idle: Annotated[float, typer.Option(min=10, help="Seconds of idling.")] = 60,
    soak: Annotated[float, typer.Option(min=0, help="Seconds of bursts; 0: none.")] = 0,
    write: Annotated[bool, typer.Option("--write", help="Into benchmarks/RESULTS.md.")] = False,
    memory: Annotated[str, typer.Option(help="Memory limit of the operator.")] = "2Gi",
) -> None:
    """Measure the operator with a fleet of bindings whose worker Pods are not run."""
    signal.signal(signal.SIGTERM, _interrupt)
    results = [_one(count, per_topic, idle=idle, soak=soak, memory=memory) for count in bindings]
    Console().print(report.table(results))
    for result in results:
        for line in report.sentences(result):
            typer.echo(line)
        for line in report.misses(result):
            typer.echo(f"missed: {line}")
    if write:
        command = f"make scale SCALE={shlex.quote(' '.join(sys.argv[1:]))}"
        write_section(RESULTS, report.section(results, command))


def _one(count: int, per_topic: int, *, idle: float, soak: float, memory: str) -> Result:
    """On a testbed of its own: what another fleet has left would be measured, too."""
    began = time.monotonic()

    def say(text: str) -> None:
        typer.echo(f"{time.monotonic() - began:6.1f} s  {text}", err=True)

    async def measured(bed: Testbed) -> Result:
        async with Fleet(bed, count, max(1, count // per_topic)) as fleet:
            await asyncio.to_thread(fleet.stop_operator)
            say(f"{count} bindings")
            await fleet.create()
            return await measure(fleet, idle=idle, soak=soak, say=say)

    with tempfile.TemporaryDirectory(prefix="flowbinding-scale-") as folder:
        bed = Testbed(Path(folder) / "testbed")
        try:
            say("testbed")
            bed.up()
            bed.paper_node().start()
            bed.install_operator({"resources": {"limits": {"memory": memory}}})
            return asyncio.run(measured(bed))
        finally:
            say("testbed down")
            bed.down()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End as Ctrl-C does: the testbed is stopped first."""
    raise KeyboardInterrupt
