"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

from testbed.errors import TestbedError

POLL_SECONDS = 0.05


def wait_until(
    condition: Callable[[], bool],
    *,
    what: str,
    timeout: float = 60,
    explain: Callable[[], str] = str,
) -> None:
    """Return once ``condition()`` holds; raise after ``timeout`` seconds.

    Args:
        condition: Asked repeatedly; may raise a TestbedError to give up at once.
        what: What is waited for, for the message.
        timeout: Seconds.
        explain: Asked for more when the time is over, such as the tail of a log.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise TestbedError(f"{what}: not after {timeout:.0f} s", hint=explain())
        time.sleep(POLL_SECONDS)
