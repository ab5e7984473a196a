"""What has been tried: so many workers were too few for that flow."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flowbinding_operator.scaling.rates import SLOW_SECONDS

FIRST_WAIT = 300.0
"""Seconds after which the same is tried again; twice as many each further time."""
LONGEST_WAIT = 3600.0
TRIED_SECONDS = 120.0
"""Workers that were enough for so long are no step on the way up."""
SIGMAS = 3.0
"""A flow is lower than another if so many standard deviations of its mean do not explain it."""


@dataclass(slots=True)
class Tried:
    """The last number of workers that had to be raised though no more arrives than before.

    Attributes:
        workers: How many they were; 0 while there was none.
        flow: Messages a second that were too many for them.
        until: When they may be tried again.
    """

    workers: int = 0
    flow: float = 0.0
    until: float = 0.0
    _wait: float = 0.0
    _last: tuple[float, int, float] | None = None

    def follow(self, now: float, before: int, after: int, flow: float) -> None:
        """Take in a change of the number of workers.

        Args:
            now: When, in seconds of any clock.
            before: How many there were.
            after: How many there are.
            flow: Messages a second that keep arriving.
        """
        last, self._last = self._last, (now, after - before, flow)
        if not _at_least(self.flow, flow):
            # Other times have come. What was too few then says nothing of when these are over.
            self.workers = 0
        if last is None or after < before or before == 0 or flow <= 0:
            return
        then, change, usual = last
        if not _at_least(usual, flow) or (change > 0 and now - then < TRIED_SECONDS):
            return
        again = self.knows(flow) and before == self.workers
        self._wait = min(2 * self._wait, LONGEST_WAIT) if again else FIRST_WAIT
        self.workers, self.flow, self.until = before, flow, now + self._wait

    def knows(self, flow: float) -> bool:
        """Whether a flow like this one was too much."""
        return self.workers > 0 and _at_least(flow, self.flow)

    def too_few(self, flow: float, now: float) -> int:
        """How many workers are too few for a flow, until they are tried again; 0 if none are."""
        return self.workers if now < self.until and self.knows(flow) else 0


def _at_least(flow: float, other: float) -> bool:
    """Whether one flow is not surely lower than another."""
    return flow >= other - SIGMAS * math.sqrt(other / SLOW_SECONDS)
