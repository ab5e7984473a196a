"""Runs a flow file in the worker's own processes, and reads from /proc what that took."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from flowbinding_api.flow import Flow
from flowbinding_worker.files import Files
from flowbinding_worker.flows.local import LocalFlow
from flowbinding_worker.ports import FlowRequest
from proc import cpu_seconds
from testbed.paths import PROJECT

FLOWS = PROJECT / "tests" / "integration" / "langflow" / "flows"
PROCESSES = 2
WARM = 40
"""Runs before it counts: the first ones import, and fill caches."""


class Case(NamedTuple):
    """What is run."""

    flow: str
    at_once: int


class Cost(NamedTuple):
    """What one case took.

    Attributes:
        case: Which.
        per_second: Runs a second of wall time.
        flow_ms: CPU time of one run in the flow's processes.
        worker_ms: CPU time of one run in the worker.
        template_bytes: Proportional memory of the process that has imported lfx.
        process_bytes: The same of each process that runs the flow.
        worker_bytes: The same of the worker.
    """

    case: Case
    per_second: float
    flow_ms: float
    worker_ms: float
    template_bytes: int
    process_bytes: int
    worker_bytes: int


async def measured(case: Case, runs: int) -> Cost:
    """The cost of a case, from so many runs."""
    spec = {
        "backend": "Local",
        "file": {"path": str(FLOWS / f"{case.flow}.json")},
        # Each process stays for the whole time, and with it its CPU time.
        "local": {
            "processes": PROCESSES,
            "maxRunsPerProcess": 100_000,
            "maxMemoryGrowth": "0",
        },
    }
    flow = LocalFlow(Flow.model_validate(spec), Files(), slots=case.at_once)
    try:
        await flow.start()
        await _run(flow, WARM, case.at_once)
        [template] = children(os.getpid())
        processes = children(template)
        own, theirs = time.process_time(), sum(map(cpu_seconds, processes))
        began = time.monotonic()
        await _run(flow, runs, case.at_once)
        seconds = time.monotonic() - began
        own, theirs = time.process_time() - own, sum(map(cpu_seconds, processes)) - theirs
        return Cost(
            case,
            per_second=runs / seconds,
            flow_ms=1000 * theirs / runs,
            worker_ms=1000 * own / runs,
            template_bytes=pss_bytes(template),
            process_bytes=sum(map(pss_bytes, processes)) // len(processes),
            worker_bytes=pss_bytes(os.getpid()),
        )
    finally:
        await flow.close()


async def _run(flow: LocalFlow, runs: int, at_once: int) -> None:
    numbers = iter(range(runs))

    async def work() -> None:
        for number in numbers:
            await flow.run(FlowRequest(f"bench-0-{number}", "hello", f"s-{number}"))

    await asyncio.gather(*(work() for _ in range(at_once)))


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    return sorted(_children(pid))


def _children(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (tasks / "children").read_text().split())


def pss_bytes(pid: int) -> int:
    """Memory of a process; what it shares with others is divided among them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(kilobytes) * 1024
