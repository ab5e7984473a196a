"""benchmarks/RESULTS.md: a section for each benchmark, between two marks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RESULTS = Path(__file__).parent / "RESULTS.md"

ResultsFile = Annotated[Path, typer.Option(help="Rewrite the section here.")]
Keep = Annotated[bool, typer.Option("--write/--no-write", help="Keep the figures.")]


def write(path: Path, text: str) -> None:
    """Put a section in its place in the file, or at its end.

    Args:
        path: The file.
        text: The section; its first and its last line mark where it is.
    """
    old = path.read_text() if path.exists() else "# Results\n"
    first, *_, last = text.strip().splitlines()
    before, begin, rest = old.partition(first)
    after = rest.partition(last)[2] if begin else "\n"
    gap = "" if begin else "\n"
    path.write_text(f"{before}{gap}{text.strip()}{after}")
