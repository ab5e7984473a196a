"""How busy a worker is, for the operator and for metrics. Pure: the clock is passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass

BUSY_SECONDS = 10.0
"""Time constant of the busy share: what happened longer ago hardly counts."""
MEAN_WEIGHT = 0.1
"""Weight of the newest message in the mean."""


class Busy:
    """Share of the slots in use lately, 0..1.

    Args:
        now: Time in seconds.
    """

    def __init__(self, now: float) -> None:
        self._current = 0.0
        self._share = 0.0
        self._since = now

    def change(self, used: int, slots: int, now: float) -> None:
        """From `now` on, `used` of so many slots are in use; more than those after a reduction."""
        self._share = self.share(now)
        self._current = min(1.0, used / slots)
        self._since = now

    def share(self, now: float) -> float:
        """The share at `now`."""
        faded = math.exp(-max(0.0, now - self._since) / BUSY_SECONDS)
        return self._share * faded + self._current * (1 - faded)


@dataclass(slots=True)
class Mean:
    """Exponentially weighted mean.

    Attributes:
        value: None before the first.
    """

    value: float | None = None

    def add(self, value: float) -> None:
        """Take in one more."""
        old = value if self.value is None else self.value
        self.value = old + MEAN_WEIGHT * (value - old)
