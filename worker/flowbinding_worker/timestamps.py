"""Times as ISO 8601 text in UTC. Each message has several, most of them of one second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def second(seconds: int) -> str:
    """The second that begins so many seconds after the epoch, e.g. `2026-11-21T10:39:18`.

    Raises:
        OverflowError: It is beyond the calendar.
    """
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]
