"""Runs `flowbinding-worker` and looks every two milliseconds of CPU time at what it does.

    python -m worker.profiled FILE run --file …

A statistical profile: unlike cProfile it costs next to nothing, so that shares are true. Time in C
counts for the Python function that called it, or that runs next. FILE gets the stacks, innermost
function first, with how often each was seen.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from flowbinding_worker.main import run

INTERVAL_SECONDS = 0.002
_stacks: Counter[tuple[str, ...]] = Counter()


def _look(_number: int, frame: FrameType | None) -> None:
    stack = []
    while frame is not None:
        code = frame.f_code
        stack.append(f"{code.co_filename}:{code.co_qualname}")
        frame = frame.f_back
    _stacks[tuple(stack)] += 1


def main() -> int:
    """Run the worker until it ends; its exit code."""
    signal.signal(signal.SIGPROF, _look)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
    try:
        return run(sys.argv[2:])
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        Path(sys.argv[1]).write_text(json.dumps([[n, s] for s, n in _stacks.items()]))


if __name__ == "__main__":
    sys.exit(main())
