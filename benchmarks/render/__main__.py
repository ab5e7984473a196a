"""`python -m render`, with `tests` and `benchmarks` on the path."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from flowbinding_worker.payload import Payload
from proc import machine
from render.cases import MESSAGE_BYTES, SPECS, binding, message, render
from render.report import Rate, section
from results import RESULTS, Keep, ResultsFile, write

BATCH = 200


def main(
    seconds: Annotated[float, typer.Option(min=0.01, help="CPU time to spend on a case.")] = 5.0,
    results: ResultsFile = RESULTS,
    write_results: Keep = True,
) -> None:
    """Render messages of 1 KiB in one process, and say how many a second."""
    rates = [measured(name, seconds) for name in SPECS]
    for rate in rates:
        typer.echo(f"{rate.name:24} {rate.per_second:8,.0f}/s  {rate.microseconds:6.1f} us/message")
    if write_results:
        write(results, section(rates, MESSAGE_BYTES, machine()))


def measured(name: str, seconds: float) -> Rate:
    """One case, by the process's own CPU time: what else the machine does counts little."""
    payload, record = Payload(binding(SPECS[name])), message()
    # The first ones fill caches.
    for _ in range(BATCH):
        render(payload, record)
    count, began = 0, time.process_time()
    while (spent := time.process_time() - began) < seconds:
        for _ in range(BATCH):
            render(payload, record)
        count += BATCH
    return Rate(name, count / spent)


if __name__ == "__main__":
    typer.run(main)
