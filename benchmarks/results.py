"""benchmarks/RESULTS.md: a section for each benchmark, between two marks."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


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
