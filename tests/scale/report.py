"""Tables: on the terminal, and in RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from proc import machine
from scale.measure import Phase, Result

BEGIN, END = "<!-- fleet: made by `make scale` -->", "<!-- /fleet -->"
MIB = 1024**2
DAY = 86_400
COLUMNS = (
    *("Bindings", "Phase", "seconds", "CPU", "RSS MiB", "API writes/s", "seen by the API server"),
    *("reconciles/s", "Kafka requests/s", "tick p50", "tick p99", "loop late p99"),
)
LEGEND = """\
Bindings that share topics of 6 partitions on one broker, on the testbed's real API server; worker
Pods are there but run nothing. The operator polls Kafka every 2 s. Cold start: from its
Deployment's scale-up, Pod start included, until nothing is left to do. Idle: nothing arrives.
Takeover: the operator is killed, its Lease lasts 15 s, and another Pod starts, leads and looks at
the commits of all bindings. Burst: 600 messages into each topic of a tenth of the bindings; the
time is until the last of them asks for its final number. Soak: bursts, one after the other, each
done and slept after. CPU: of one core. Ticks, and how late the event loop is, are upper bounds of
the histograms' buckets. Writes do not count the Lease's."""


def cells(result: Result, phase: Phase) -> list[str]:
    """A phase's cells, in the order of `COLUMNS`."""
    return [
        *(f"{result.bindings:,}", phase.name, f"{phase.seconds:.0f}", f"{phase.cpu:.1%}"),
        *(f"{phase.rss / MIB:.0f}", f"{phase.own_writes:.2f}", f"{phase.seen_writes:.2f}"),
        *(f"{phase.reconciles:.1f}", f"{phase.kafka:.2f}"),
        *(_milliseconds(tick) for tick in phase.ticks),
        _milliseconds(phase.late),
    ]


def table(results: Sequence[Result]) -> Table:
    """For the terminal."""
    shown = Table(*COLUMNS)
    for result in results:
        for phase in result.phases:
            shown.add_row(*cells(result, phase))
    return shown


def sentences(result: Result) -> list[str]:
    """The figures that are no rows."""
    done = {item.name for item in result.phases}
    parts = {
        "cold start": f"all Deployments applied {result.applied:.1f} s after the operator's start,"
        f" all Ready after {result.ready:.1f} s",
        "takeover": f"killed, another had looked at all after {result.taken_over:.1f} s and had"
        f" made {result.repeated:.0f} writes",
        "burst": f"a burst for {result.burst_of:,} of them: all scaled {result.scaled:.1f} s after"
        " its last message",
    }
    told = [text for name, text in parts.items() if name in done]
    if result.unfinished:
        told.append(f"the measurement ended there ({result.unfinished})")
    told.append(f"resident memory at most {result.peak / MIB:.0f} MiB")
    said = [f"{result.bindings:,} bindings on {result.topics:,} topics: {'; '.join(told)}."]
    found = result.rss_growth
    if result.cycles:
        said.append(
            f"Soak of {result.soak_seconds / 60:.0f} min, {result.cycles} bursts:"
            + (
                " too short to tell growth."
                if found is None
                else f" memory grew by {found.slope * DAY / MIB:+.1f} MiB a day, 95 % sure to be"
                f" between {found.low * DAY / MIB:+.1f} and {found.high * DAY / MIB:+.1f}, if it"
                " went on as in the last three quarters."
            )
        )
    return said


def misses(result: Result) -> list[str]:
    """Aims that were missed, for 1,000 bindings."""
    idle = next((item for item in result.phases if item.name == "idle"), None)
    ticks = [item.ticks[1] for item in result.phases if item.ticks[1] is not None]
    late = max((item.late for item in result.phases if item.late is not None), default=0)
    found = {
        f"cold start {result.applied:.1f} s > 60 s": result.applied > 60,
        f"tick p99 {max(ticks, default=0):g} s > 1 s": max(ticks, default=0) > 1,
        f"loop late p99 {late:g} s > 0.2 s": late > 0.2,
        f"RSS {result.peak / MIB:.0f} MiB > 400 MiB": result.peak > 400 * MIB,
        f"takeover: {result.repeated:.0f} API writes": result.repeated > 0,
        result.unfinished: bool(result.unfinished),
    }
    if idle is not None:
        writes = idle.own_writes > 0 or idle.seen_writes > 0
        found[f"idle {idle.seen_writes:.2f} API writes/s"] = writes
        found[f"idle {idle.kafka:.2f} Kafka requests/s > 1"] = idle.kafka > 1
    return [text for text, missed in found.items() if missed]


def section(results: Sequence[Result], command: str) -> str:
    """The fleet's section of RESULTS.md."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    rows += [cells(result, phase) for result in results for phase in result.phases]
    said = [f"- {line}" for result in results for line in sentences(result)]
    for result in results:
        missed = "; ".join(misses(result)) or "none"
        said.append(f"- Aims of 1,000 bindings that {result.bindings:,} miss: {missed}.")
    lines = [
        *(BEGIN, "## Fleet", "", f"Command: `{command}`", ""),
        *(f"- {fact}" for fact in machine()),
        *("", LEGEND, ""),
        *("| " + " | ".join(row) + " |" for row in rows),
        *("", *said, END),
    ]
    return "\n".join(lines)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"≤ {seconds * 1000:g} ms"
