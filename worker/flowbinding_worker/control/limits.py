"""How many runs a flow server can take at once, found out from its answers. Pure.

Two signals lower the limit below what the binding allows:

- The server asks for less (THROTTLE): additive increase, multiplicative decrease, as in TCP
  (RFC 5681, with a decrease of a fifth, as RFC 9438 argues for large windows); at most one
  decrease per round trip, so the calls that were under way count once.
- Answers take more than twice as long as they used to. That alone says nothing: documents may
  simply be longer. So it is tried out. At a server that is full, calls wait for each other: with
  fewer of them the latency falls in proportion, and as many are answered per second (Little's law).
  The limit is lowered until that is no longer so, which is where the queue has gone. If that is
  the case at once, the latency does not depend on us: it becomes the normal one, and the limit
  returns to what it was. Otherwise the limit stays a little above the point that was found, and
  follows it as TCP Vegas does (Brakmo and Peterson, 1994): lower while latency exceeds the normal
  one by 30 %, higher while it stays within 10 %.

Latencies are looked at in cohorts of calls that *began* under one limit, by the mean of
their logarithms without the tenth at either end: a few slow calls, however slow, do not move it.
"""

from __future__ import annotations

import math
from enum import Enum

FIRST_COHORT = 20
MIN_COHORT = 100
TRIMMED = 0.1
"""Share of a cohort's calls at either end that do not count; the slowest are not waited for."""
SLOW = math.log(2.0)
SLOW_COHORTS = 3
"""So many cohorts in a row must be slow before anything is tried."""
TRIAL_STEP = 0.7
SMALL_STEP = 0.05
THROTTLED_STEP = 0.8
STEP_ANSWERS = 10
"""Answers, at least, that make the limit rise by a step after the server has asked for less."""
USED = 0.8
"""Share of the limit that calls must make use of for latencies to say anything about it."""
SAME_RATE = math.log(0.8)
"""Answers per second may fall to this share before the server counts as not full any more."""
ENOUGH = 0.75
"""A limit above this share of what ran is not worth having."""
HEADROOM = 1.15
BAND = (math.log(1.1), math.log(1.3))
FALL, RISE = 0.3, 0.02
"""How fast the normal latency follows cohorts that are quicker, and that are slower."""

_NOWHERE = (math.nan, math.nan)


class _Phase(Enum):
    FREE = "latency limits nothing"
    TRIAL = "lowering, to see whether it helps"
    HOLD = "following the server's capacity"


class Cohort:
    """Calls that began one after the other, and how long they took."""

    __slots__ = ("_logs", "_running", "begun", "dropped", "era", "judged", "size")

    def __init__(self, size: int, era: int) -> None:
        self.size = size
        self.era = era
        self.begun = 0
        self.dropped = 0
        self.judged = False
        self._running = 0
        self._logs: list[float] = []

    def began(self, running: int) -> None:
        """One more; `running` with it."""
        self.begun += 1
        self._running += running

    def took(self, seconds: float) -> None:
        """One has ended after so long."""
        self._logs.append(math.log(max(seconds, 1e-6)))

    @property
    def settled(self) -> bool:
        """Whether its latency is known."""
        counted = self.begun - self.dropped
        ended = len(self._logs)
        return self.begun >= self.size and ended > 0 and ended >= counted - round(counted * TRIMMED)

    @property
    def running(self) -> float:
        """Calls in flight on average when one of them began."""
        return self._running / max(1, self.begun)

    @property
    def latency(self) -> float:
        """Mean logarithm, without the shortest and longest: calls still running are such."""
        counted = self.begun - self.dropped
        cut = round(counted * TRIMMED)
        middle = sorted(self._logs)[cut : counted - cut]
        return sum(middle) / len(middle)


class Ticket:
    """One call's account with the limiter."""

    __slots__ = ("cohort", "running", "start", "used")

    def __init__(self, cohort: Cohort, running: int, start: float, *, used: bool) -> None:
        self.cohort = cohort
        self.running = running
        self.start = start
        self.used = used


class Limiter:
    """Calls that may be in flight, as far as the server's answers say.

    Args:
        most: Never more than these.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._phase = _Phase.FREE
        self._era = 0
        self._cohort = Cohort(FIRST_COHORT, 0)
        self._normal = math.nan
        self._slow = 0
        self._from = _NOWHERE
        self._doubt: float | None = None

    @property
    def limit(self) -> int:
        """At least 1."""
        return max(1, int(self._limit))

    def resize(self, most: int) -> None:
        """Another upper bound."""
        free = self._limit >= self._most
        self._most = most
        self._limit = float(most) if free else min(self._limit, most)

    def restore(self) -> None:
        """Forget what lowered the limit; the normal latency stays known."""
        self._free(self._most)

    def begin(self, running: int, now: float) -> Ticket:
        """A call begins at `now`; `running` are in flight with it."""
        if self._cohort.begun >= self._cohort.size:
            self._cohort = Cohort(max(MIN_COHORT, self.limit), self._era)
        self._cohort.began(running)
        used = running >= USED * self.limit
        return Ticket(self._cohort, running, now, used=used)

    def answered(self, ticket: Ticket, now: float) -> None:
        """The call got its answer at `now`."""
        if self._phase is _Phase.FREE and ticket.used:
            # One step for each round trip: but where few run, each step is a large one.
            self._raise(1 / max(STEP_ANSWERS, self._limit))
        self._took(ticket, now)

    def timed_out(self, ticket: Ticket, now: float) -> None:
        """Nobody waited any longer for the call's answer: it took at least so long."""
        self._took(ticket, now)

    def throttled(self, ticket: Ticket) -> None:
        """The server asked for less than were in flight when the call began."""
        self.dropped(ticket)
        if ticket.cohort.era == self._era:
            self._free(max(1.0, min(self._limit, ticket.running) * THROTTLED_STEP))

    def dropped(self, ticket: Ticket) -> None:
        """The call says nothing about latency."""
        ticket.cohort.dropped += 1
        self._look(ticket.cohort)

    def _took(self, ticket: Ticket, now: float) -> None:
        ticket.cohort.took(now - ticket.start)
        self._look(ticket.cohort)

    def _look(self, cohort: Cohort) -> None:
        if cohort.judged or cohort.era != self._era or not cohort.settled:
            return
        cohort.judged = True
        if math.isnan(self._normal):
            self._normal = cohort.latency
        elif self._phase is _Phase.FREE:
            self._watch(cohort)
        elif cohort.running >= USED * self.limit:
            (self._try if self._phase is _Phase.TRIAL else self._follow)(cohort)

    def _watch(self, cohort: Cohort) -> None:
        """FREE: begin a trial when latency has doubled for good."""
        excess = cohort.latency - self._normal
        self._normal += (FALL if excess < 0 else RISE) * excess
        if excess <= SLOW or cohort.running < USED * self.limit:
            self._slow = 0
            return
        self._slow += 1
        if self._slow >= SLOW_COHORTS and self.limit > 1:
            self._slow = 0
            self._from = (cohort.running, cohort.latency)
            self._phase = _Phase.TRIAL
            self._set(self._limit * TRIAL_STEP)

    def _try(self, cohort: Cohort) -> None:
        """TRIAL: lower on while as many are answered per second; then draw the conclusion."""
        latency = cohort.latency
        if self._doubt is not None:
            latency = (latency + self._doubt) / 2
        if self.limit > 1 and self._still_full(cohort.running, latency):
            self._doubt = None
            self._set(self._limit * TRIAL_STEP)
        elif self.limit > 1 and self._doubt is None:
            # Once more with the same limit: chance alone may have done it.
            self._doubt = latency
            self._set(self._limit)
        else:
            self._conclude(latency)

    def _follow(self, cohort: Cohort) -> None:
        """HOLD: keep a short queue at the server."""
        if self.limit == 1:
            # A call that is alone waits for no other.
            self._normal = cohort.latency
        excess = cohort.latency - self._normal
        self._slow = self._slow + 1 if excess < -BAND[1] else 0
        if self._slow >= SLOW_COHORTS:
            # The server has become quicker.
            self._normal, self._slow = cohort.latency, 0
        if excess > BAND[1]:
            if self._from is _NOWHERE:
                self._from = (cohort.running, cohort.latency)
            lowered = cohort.running <= ENOUGH * self._from[0]
            if lowered and not self._still_full(cohort.running, cohort.latency):
                self._conclude(cohort.latency)
            else:
                self._set(self._limit - max(1.0, SMALL_STEP * self._limit))
            return
        self._from = _NOWHERE
        if excess < BAND[0]:
            self._raise(1.0)
            if self._limit >= self._most:
                self._free(self._most)

    def _conclude(self, latency: float) -> None:
        """The server is not full at `latency`: so many calls make it so, by Little's law."""
        running, slow = self._from
        self._normal = latency
        share = math.exp(latency - slow)
        self._from, self._doubt = _NOWHERE, None
        if share >= ENOUGH:
            self._free(self._most)
        else:
            self._phase = _Phase.HOLD
            self._set(HEADROOM * share * running)

    def _still_full(self, running: float, latency: float) -> bool:
        """Whether as many calls are answered per second as when the trial began."""
        before, slow = self._from
        return math.log(running / before) - (latency - slow) >= SAME_RATE

    def _raise(self, times: float) -> None:
        step = max(1.0, SMALL_STEP * self._limit)
        self._limit = min(float(self._most), self._limit + times * step)

    def _free(self, limit: float) -> None:
        self._phase = _Phase.FREE
        self._slow = 0
        self._from, self._doubt = _NOWHERE, None
        self._set(limit)

    def _set(self, limit: float) -> None:
        """Change the limit: calls that began before say nothing about it."""
        self._limit = min(float(self._most), max(1.0, limit))
        self._era += 1
        self._cohort = Cohort(max(MIN_COHORT, self.limit), self._era)
