"""`python -m local`, with `tests` and `benchmarks` on the path."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from local.measure import Case, measured
from local.report import section
from proc import machine
from results import RESULTS, Keep, ResultsFile, write

CASES = (Case("echo", 1), Case("echo", 10), Case("prompt", 10))


def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of each case.")] = 500,
    results: ResultsFile = RESULTS,
    write_results: Keep = True,
) -> None:
    """Run flow files with lfx, and say what a run costs."""
    costs = [asyncio.run(measured(case, runs)) for case in CASES]
    text = section(costs, runs, machine())
    typer.echo(text)
    if write_results:
        write(results, text)


if __name__ == "__main__":
    typer.run(main)
