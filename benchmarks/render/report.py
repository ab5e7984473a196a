"""The section of RESULTS.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

BEGIN, END = "<!-- render: made by `make bench-render` -->", "<!-- /render -->"
TARGET = 5_000


class Rate(NamedTuple):
    """Messages a second of one case."""

    name: str
    per_second: float

    @property
    def microseconds(self) -> float:
        """CPU time of one message."""
        return 1e6 / self.per_second


def section(rates: Sequence[Rate], size: int, machine: Sequence[str]) -> str:
    """All figures as Markdown."""
    rows = [
        f"| {rate.name} | {rate.per_second:,.0f} | {rate.microseconds:,.1f} |"
        f" {'yes' if rate.per_second >= TARGET else 'missed'} |"
        for rate in rates
    ]
    lines = [
        *(BEGIN, "## Rendering", "", "Command: `make bench-render`", ""),
        *(f"- {fact}" for fact in machine),
        "",
        f"One process, JSON messages of {size:,} bytes: decoding, filter, input, session, tweaks,",
        "and the result's route, key and value. No Kafka and no flow. Aimed at:"
        f" {TARGET:,} messages/s.",
        *("", "| binding | messages/s of CPU time | µs a message | reached |", "|---|---|---|---|"),
        *(*rows, END),
    ]
    return "\n".join(lines)
