"""`flowbinding watch`: a live table of bindings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from flowbinding_cli import options
from flowbinding_cli.kube import Object
from flowbinding_cli.letters import ago
from flowbinding_cli.output import Format, emit, named, number, stdout, table
from flowbinding_cli.target import Finder

COLUMNS = ("NAME", "TOPIC", "FLOW", "READY", "DESIRED", "LAG", "OLDEST", "RATE", "REASON")


@dataclass(frozen=True, slots=True)
class Row:
    """One binding, as its status tells.

    Attributes:
        lag_seconds: Age of the oldest message that is not done.
        rate: Messages per second that arrive.
        per_replica: Messages per second that one worker can do.
        healthy: Whether Ready is True; None while nothing is known.
        reason: The one that a user should know: what is wrong, else why so many workers.
    """

    namespace: str
    name: str
    topic: str
    flow: str
    ready: int
    replicas: int
    desired: int | None
    lag: int | None
    lag_seconds: float | None
    rate: float | None
    per_replica: float | None
    healthy: bool | None
    reason: str

    @classmethod
    def of(cls, item: Object) -> Row:
        """From a FlowBinding as the API server has it, valid or not."""
        spec, status = item.get("spec") or {}, item.get("status") or {}
        source, flow = spec.get("source") or {}, spec.get("flow") or {}
        topics = [source["topic"]] if source.get("topic") else source.get("topics") or []
        if schedule := source.get("schedule"):
            # What stands where others have their topic.
            topics = [f"({schedule.get('cron', '')})"]
        conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
        ready = conditions.get("Ready", {})
        healthy = {"True": True, "False": False}.get(ready.get("status", ""))
        return cls(
            namespace=item["metadata"].get("namespace", ""),
            name=item["metadata"]["name"],
            topic=",".join(topics),
            flow=flow.get("id") or flow.get("backend", ""),
            ready=status.get("readyReplicas") or 0,
            replicas=status.get("replicas") or 0,
            desired=status.get("desiredReplicas"),
            lag=status.get("lag"),
            lag_seconds=status.get("lagSeconds"),
            rate=status.get("arrivalRate"),
            per_replica=status.get("ratePerReplica"),
            healthy=healthy,
            reason=(status.get("reason") or "" if healthy else ready.get("reason")) or "",
        )

    def cells(self) -> tuple[str | Text, ...]:
        """Of a table with `COLUMNS`."""
        colour = {True: "green", False: "red", None: "yellow"}[self.healthy]
        return (
            Text.assemble(("● ", colour), self.name),
            self.topic,
            self.flow,
            f"{self.ready}/{self.replicas}",
            number(self.desired),
            number(self.lag),
            "-" if self.lag_seconds is None else ago(self.lag_seconds),
            "-" if self.rate is None else f"{self.rate:.1f}/s",
            Text(self.reason, style="" if self.healthy else colour),
        )


@options.given(find=options.kube_finder)
def watch(
    binding: Annotated[str | None, typer.Argument(metavar="NAME", help="Only this one.")] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="In all namespaces.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Show them once and exit.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
    *,
    find: Finder,
    output: options.Output = Format.TABLE,
) -> None:
    """Watch bindings: lag, workers, rates, and what is wrong. Without a terminal, changed rows."""

    def look() -> list[Row]:
        if binding is not None:
            return [Row.of(find.live(binding))]
        place = None if all_namespaces else find.place
        return [Row.of(item) for item in find.kube.bindings(place)]

    if output is not Format.TABLE:
        emit([named(row) for row in look()], output)
    elif once:
        stdout().print(screen(look(), with_namespace=all_namespaces))
    elif stdout().is_terminal:
        _live(look, interval, with_namespace=all_namespaces)
    else:
        _lines(look, interval, with_namespace=all_namespaces)


def screen(rows: Sequence[Row], *, with_namespace: bool) -> RenderableType:
    """The table."""
    if not rows:
        return Text("No FlowBindings.")
    rows = sorted(rows, key=lambda row: (row.namespace, row.name))
    if not with_namespace:
        return table(COLUMNS, (row.cells() for row in rows))
    return table(("NAMESPACE", *COLUMNS), ((row.namespace, *row.cells()) for row in rows))


def _live(look: Callable[[], list[Row]], interval: float, *, with_namespace: bool) -> None:
    with Live(console=stdout(), auto_refresh=False, screen=False) as live:
        while True:
            live.update(screen(look(), with_namespace=with_namespace), refresh=True)
            time.sleep(interval)


def _lines(look: Callable[[], list[Row]], interval: float, *, with_namespace: bool) -> None:
    before: list[Row] = []
    while True:
        rows = look()
        changed = changes(before, rows)
        if changed:
            stdout().print(screen(changed, with_namespace=with_namespace))
        before = rows
        time.sleep(interval)


def changes(before: Sequence[Row], after: Sequence[Row]) -> list[Row]:
    """Rows that are new, or say something else than before."""
    known: Mapping[tuple[str, str], Row] = {(row.namespace, row.name): row for row in before}
    return [row for row in after if known.get((row.namespace, row.name)) != row]
