"""The section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from local.measure import PROCESSES, Cost

BEGIN, END = "<!-- local: made by `make bench-local` -->", "<!-- /local -->"
_MIB = 1024 * 1024


def section(costs: Sequence[Cost], runs: int, machine: Sequence[str]) -> str:
    """All figures as Markdown."""
    rows = [
        f"| {cost.case.flow} | {cost.case.at_once} | {cost.per_second:,.0f} |"
        f" {cost.flow_ms:,.1f} | {cost.worker_ms:,.2f} | {cost.template_bytes // _MIB} |"
        f" {cost.process_bytes // _MIB} | {cost.worker_bytes // _MIB} |"
        for cost in costs
    ]
    lines = [
        *(BEGIN, "## Local flows", "", "Command: `make bench-local`", ""),
        *(f"- {fact}" for fact in machine),
        "",
        f"A worker's own processes, {PROCESSES} of them, run a flow file {runs:,} times with lfx.",
        "No Kafka, and no model. Memory is proportional (PSS): what processes share is divided.",
        "",
        "| flow | at once | runs/s | CPU ms a run | in the worker | template MiB"
        " | each process MiB | worker MiB |",
        "|---|---|---|---|---|---|---|---|",
        *(*rows, END),
    ]
    return "\n".join(lines)
