"""`python -m local`, with `tests` and `benchmarks` on the path."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from local.measure import Case, measured
from local.report import section
from results import RESULTS, write
from worker.proc import machine

CASES = (Case("echo", 1), Case("echo", 10), Case("prompt", 10))


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each case.")] = 500,
    results: Annotated[Path, typer.Option(help="Rewrite the section here.")] = RESULTS,
    write_results: Annotated[
        bool, typer.Option("--write/--no-write", help="Keep the figures.")
    ] = True,
) -> None:
    """Run flow files with lfx, and say what a run costs."""
    facts = machine()
    costs = [asyncio.run(measured(case, runs)) for case in CASES]
    text = section(costs, runs, facts)
    typer.echo(text)
    if write_results:
        write(results, text)


if __name__ == "__main__":
    typer.run(main)
