"""What /proc says about a process, and about the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# Before the measurement adds to it.
_LOAD = os.getloadavg()


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads, in steps of 10 ms."""
    text = Path(f"/proc/{pid}/stat").read_text()
    # The name before may hold blanks.
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_bytes(pid: int) -> int:
    """Resident memory."""
    return _status(pid, "VmRSS")


def peak_bytes(pid: int) -> int:
    """The most resident memory so far."""
    return _status(pid, "VmHWM")


def machine() -> list[str]:
    """What the figures were taken on."""
    model = _first("/proc/cpuinfo", "model name") or platform.processor()
    memory = int((_first("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1024**2
    load = ", ".join(f"{value:.1f}" for value in _LOAD)
    size = f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB"
    packages = ("aiokafka", "aiohttp", "httpx", "msgspec", "uvloop")
    return [
        f"{size}, Linux {platform.release()}; load averages at the start {load}",
        f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages),
    ]


def _status(pid: int, name: str) -> int:
    found = _first(f"/proc/{pid}/status", name)
    return int(found.split()[0]) * 1024 if found else 0


def _first(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
