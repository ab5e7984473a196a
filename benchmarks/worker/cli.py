"""`make bench-worker`: options, and the order of things."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import proc
from results import RESULTS, write
from testbed.kafka import KafkaBroker
from testbed.report import Report
from worker import extras, profile_report, report
from worker.cases import OURS, Case, System, full, quick
from worker.runner import Bench, BenchError, Result
from worker.systems import faststream_python

MESSAGES_PER_SECOND = 4_000
"""More than any system here completes."""

PROFILE_ROWS = 25

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console()
if not console.is_terminal:
    console.width = 120


@app.command()
def main(
    quickly: Annotated[
        bool, typer.Option("--quick", help="A few cases, under two minutes.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Cases with this in their name (see --names); may be given again."),
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="List the cases and end.")] = False,
    window: Annotated[float | None, typer.Option(help="Seconds to measure a case.")] = None,
    singles: Annotated[
        int | None, typer.Option(help="Messages for the latency when idle; 0: not.")
    ] = None,
    backlog: Annotated[
        int | None, typer.Option(help="Messages for memory over a backlog; 0: not.")
    ] = None,
    profile: Annotated[bool, typer.Option(help="Show where the worker's CPU time goes.")] = False,
    kafka: Annotated[str | None, typer.Option(help="Use this broker; default: its own.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(help="Rewrite the section here; default: RESULTS.md, after a full run."),
    ] = None,
) -> None:
    """Measure the worker against the ideal C/S and against other consumers."""
    cases = _chosen(quick() if quickly else full(), only, window)
    if names:
        console.print("\n".join(case.name for case in cases), highlight=False)
        return
    complete = not (quickly or only or window or profile)
    counts = _counts(singles, backlog, quickly=quickly, some=bool(only))
    # Whatever runs is stopped with it, also when `timeout` or a CI job ends it.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    machine = proc.machine()
    # It warns of topics that were made a moment ago, and finds them the next moment.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with ExitStack() as stack, Report() as steps:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowbinding-bench-")))
        bootstrap = kafka or _broker(stack, steps, folder)
        found, said = asyncio.run(_measure(bootstrap, folder, cases, counts, steps, profile))
    console.print(*([report.table(found)] if found else []), *said, sep="\n")
    path = results or (RESULTS if complete else None)
    if path is not None:
        command = f"make bench-worker BENCH={shlex.quote(' '.join(sys.argv[1:]))}"
        text = report.section(
            found, said, machine, command if sys.argv[1:] else "make bench-worker"
        )
        write(path, text)
    if len(found) < len(cases):
        raise typer.Exit(1)


def _chosen(cases: list[Case], only: list[str] | None, window: float | None) -> list[Case]:
    cases = [c for c in cases if not only or any(part in c.name for part in only)]
    if window is not None:
        cases = [Case(c.system, c.pattern, c.slots, c.ordering, window) for c in cases]
    return cases


def _counts(
    singles: int | None, backlog: int | None, *, quickly: bool, some: bool
) -> tuple[int, int]:
    """How many messages the two further measurements take."""
    usual = (0, 0) if some else (50, 0) if quickly else (200, 20_000)
    return (
        usual[0] if singles is None else singles,
        usual[1] if backlog is None else backlog,
    )


def _broker(stack: ExitStack, steps: Report, folder: Path) -> str:
    with steps.step("Starting a Kafka broker"):
        return stack.enter_context(KafkaBroker(folder / "kafka")).bootstrap


async def _measure(
    bootstrap: str,
    folder: Path,
    cases: list[Case],
    counts: tuple[int, int],
    steps: Report,
    profile: bool,
) -> tuple[list[Result], list[str]]:
    bench = Bench(bootstrap, folder)
    if any(case.system not in (*OURS, System.HTTPX, System.AIOHTTP) for case in cases):
        faststream_python()
    if cases:
        with steps.step("Producing messages"):
            await bench.fill(max(map(_needed, cases)))
    found = []
    for case in cases:
        if (result := await _one(bench, case, steps, profile)) is not None:
            found.append(result)
    singles, backlog = counts
    idle = memory = None
    if singles:
        with steps.step("Latency of an idle worker"):
            idle = await extras.latency(bench, singles)
    if backlog:
        with steps.step("Memory over a backlog") as step:
            memory = await extras.backlog(bench, backlog, step.note)
    return found, report.sentences(idle, memory)


def _needed(case: Case) -> int:
    """Messages that a case takes at most."""
    seconds = case.ramp + case.window + case.seconds + 2
    return int(seconds * min(case.ideal * 1.1, MESSAGES_PER_SECOND)) + 2 * case.slots


async def _one(bench: Bench, case: Case, steps: Report, profile: bool) -> Result | None:
    """A case's result; None, after saying so, when it could not be measured."""
    ours = profile and case.system in OURS
    path = bench.folder / "profile.json" if ours else None
    try:
        with steps.step(case.name):
            result = await bench.run(case, path)
    except BenchError as error:
        steps.line(f"  {error}")
        return None
    steps.line(
        f"  {result.rate:,.1f}/s, efficiency {result.efficiency:.3f},"
        f" {result.cpu * 1000:.2f} ms CPU a message"
    )
    if path is not None:
        _show_profile(path, result)
    return result


def _show_profile(path: Path, result: Result) -> None:
    stacks: profile_report.Stacks = json.loads(path.read_text())
    for title, shares in (
        ("CPU time in the code of", profile_report.by_library(stacks)),
        ("CPU time in a function and what it calls", profile_report.by_function(stacks)),
    ):
        shown = Table(title, "share", "ms/msg")
        for name, share in shares[:PROFILE_ROWS]:
            shown.add_row(name, f"{share:.1%}", f"{share * result.cpu * 1000:.3f}")
        console.print(shown)
