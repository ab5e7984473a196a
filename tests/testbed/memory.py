"""How much memory a process takes."""

from __future__ import annotations

from pathlib import Path


def proportional_mib(pid: int) -> int:
    """Memory in MiB, where what processes share counts once: they are one binary."""
    try:
        lines = (Path("/proc") / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    kib = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return kib // 1024
