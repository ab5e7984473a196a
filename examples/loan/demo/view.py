"""How the demo looks: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import re
from io import StringIO
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.observed import BindingView, Observed

PLAIN_SECONDS = 5.0
WIDTH = 100


class View:
    """Shows the state of the demo until it is closed."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._console = Console(highlight=False)
        self._record = Console(record=True, width=WIDTH, file=StringIO(), highlight=False)
        self._live: Live | None = None
        self._busiest: RenderableType | None = None
        self._most_ready = 0
        self._told = 0

    async def refresh(self) -> None:
        """Keep the screen up to date, or print a line now and then."""
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4)
            self._live.start()
        while True:
            self._keep_the_busiest()
            if self._live:
                self._live.update(screen(self._observed))
                await asyncio.sleep(0.25)
            else:
                self._print_lines()
                await asyncio.sleep(PLAIN_SECONDS)

    def close(self, picture: Path | None) -> None:
        """End the live table; write the busiest screen and the summary as an SVG if asked to."""
        if self._live:
            self._live.update(screen(self._observed))
            self._live.stop()
            self._live = None
        else:
            self._print_lines()
        if picture:
            self._record.print("$ make demo")
            self._record.print(self._busiest or "")
            self._record.print(summary(self._observed))
            svg = self._record.export_svg(title="make demo")
            # Without the web font that rich asks for: a picture should not load anything.
            picture.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))

    def print(self, what: RenderableType) -> None:
        """Print below the table."""
        self._console.print(what, soft_wrap=isinstance(what, str))

    def _keep_the_busiest(self) -> None:
        ready = sum(binding.ready for binding in self._observed.bindings)
        if ready > self._most_ready:
            self._most_ready = ready
            self._busiest = screen(self._observed)

    def _print_lines(self) -> None:
        for seconds, text in self._observed.log[self._told :]:
            self._console.print(f"{seconds:6.1f} s  {text}")
        self._told = len(self._observed.log)
        cells = "   ".join(
            f"{b.name.removeprefix('loan-')}: lag {_number(b.lag)} workers {b.ready}/{b.wanted}"
            for b in self._observed.bindings
        )
        done = len(self._observed.decided)
        self._console.print(
            f"{self._observed.seconds:6.1f} s  {cells}   decisions {done}/{self._observed.total}",
            soft_wrap=True,
        )


def screen(observed: Observed) -> RenderableType:
    """The table, the progress and the story so far."""
    table = Table(title_justify="left", expand=False)
    for name in ("BINDING", "LAG", "AGE", "WANTED", "READY", "ARRIVALS", "PER WORKER", "REASON"):
        table.add_column(name, justify="left" if name in ("BINDING", "REASON") else "right")
    for binding in observed.bindings:
        table.add_row(*_row(binding))
    done = len(observed.decided)
    lines = [Text(f"{observed.seconds:5.0f} s   applications {observed.total}   decisions {done}")]
    lines += [Text(f"{at:5.0f} s   {text}", style="dim") for at, text in observed.log[-4:]]
    return Group(table, *lines)


def summary(observed: Observed) -> RenderableType:
    """What a reader wants to know at the end."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    peak = ", ".join(f"{b.name} {observed.peak[b.name]}" for b in observed.bindings)
    verdicts = ", ".join(f"{count} {name}" for name, count in observed.verdicts.most_common())
    rows = {
        "applications in": str(observed.total),
        "decisions out": f"{len(observed.decided)} ({verdicts})",
        "lost": str(observed.lost),
        "repeated": str(observed.repeated),
        "peak workers": peak,
        "burst to replicas wanted": _seconds(observed.wanted_after),
        "burst to replicas ready": _seconds(observed.full_after),
        "back at zero": _seconds(observed.asleep_after, "after"),
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value)
    return table


def _row(binding: BindingView) -> tuple[str, ...]:
    colour = "green" if binding.healthy else "red"
    return (
        f"[{colour}]●[/] {binding.name}",
        _number(binding.lag),
        _seconds(binding.lag_seconds),
        str(binding.wanted),
        str(binding.ready),
        "" if binding.rate is None else f"{binding.rate:.1f}/s",
        "" if binding.per_replica is None else f"{binding.per_replica:.1f}/s",
        binding.trouble or binding.reason,
    )


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _seconds(value: float | None, before: str = "") -> str:
    return "" if value is None else f"{before} {value:.0f} s".strip()
