"""Waiting for something, not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """What `awaitable` gives, if it does within `seconds`; it is cancelled otherwise.

    For `asyncio.wait_for`, which before Python 3.12 drops a cancellation that comes together with
    the result: a task that was told to end would go on.

    Raises:
        TimeoutError: It took longer.
    """
    async with asyncio.timeout(seconds):
        return await awaitable
