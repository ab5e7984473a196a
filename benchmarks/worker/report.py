"""Tables: on the terminal, and in RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from worker.extras import Backlog, Latency
from worker.runner import Result

BEGIN, END = "<!-- worker: made by `make bench-worker` -->", "<!-- /worker -->"
COLUMNS = (
    *("System", "S", "C", "Order", "ideal/s", "measured/s", "efficiency"),
    *("CPU ms/msg", "RSS MiB", "S seen"),
)
LEGEND = """\
One process, 12 partitions, 2,000 keys, messages of 256 bytes, Langflow's recorded answer (2.3 KB),
output topic on. S: what a call takes at the stand-in flow server; "5 % slow": 0.75 s, and 5.75 s
for every twentieth. C: calls in flight at most. Efficiency: completions a second in steady state
(by the broker's clock, ramp-up cut off) ÷ C/S; with order by partition ÷ 12/S. CPU: of the process,
all in, user and system, divided by its completions. RSS: the peak. "S seen": what the server
took."""


def cells(result: Result) -> list[str]:
    """A result's cells, in the order of `COLUMNS`."""
    case = result.case
    return [
        *(case.system.value, case.service, str(case.slots), case.ordering.value),
        *(f"{case.ideal:,.0f}", f"{result.rate:,.1f}", f"{result.efficiency:.3f}"),
        f"{result.cpu * 1000:.2f}",
        f"{result.peak / 1024**2:.0f}",
        f"{result.service * 1000:,.1f} ms",
    ]


def table(results: Sequence[Result]) -> Table:
    """For the terminal."""
    shown = Table(*COLUMNS)
    for result in results:
        shown.add_row(*cells(result))
    return shown


def sentences(latency: Latency | None, backlog: Backlog | None) -> list[str]:
    """The figures that are no rows."""
    said = []
    if latency is not None:
        said.append(
            f"Append to call start on an idle worker: p50 {latency.p50 * 1000:.1f} ms, p99"
            f" {latency.p99 * 1000:.1f} ms, longest {latency.most * 1000:.1f} ms"
            f" ({latency.count} messages)."
        )
    if backlog is not None:
        early, late, peak = (n / 1024**2 for n in (backlog.early, backlog.late, backlog.peak))
        said.append(
            f"Memory over a backlog of {backlog.count:,} messages of 1 KiB, C = 100, at"
            f" {backlog.rate:,.0f}/s: {early:.1f} MiB after a tenth, at most {late:.1f} MiB in the"
            f" second half, peak {peak:.1f} MiB."
        )
    return said


def section(
    results: Sequence[Result], said: Sequence[str], machine: Sequence[str], command: str
) -> str:
    """The worker's section of RESULTS.md."""
    rows = [COLUMNS, ["---"] * len(COLUMNS), *map(cells, results)]
    lines = [
        *(BEGIN, "## Worker", "", f"Command: `{command}`", ""),
        *(f"- {fact}" for fact in machine),
        *("", LEGEND, ""),
        *("| " + " | ".join(row) + " |" for row in rows),
        *("", *said, END),
    ]
    return "\n".join(lines)
