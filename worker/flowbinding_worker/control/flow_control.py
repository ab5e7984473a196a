"""Whether and how many runs may begin: all limits of a flow in one place. Pure.

- the circuit: a flow that fails for everybody is not called, only probed;
- `concurrency.perReplica`, and below it what the server can take (`limits.Limiter`);
- `concurrency.maxInFlight` and `rateLimit.requestsPerMinute`, which hold for all workers together:
  each takes the share that it has of the partitions. Nobody has to be asked for that.
"""

from __future__ import annotations

import math

from flowbinding_api.spec import Concurrency, RateLimit
from flowbinding_worker.control.circuit import Call as CircuitCall
from flowbinding_worker.control.circuit import Circuit, State
from flowbinding_worker.control.limits import Limiter, Ticket
from flowbinding_worker.ports import Failure, ProcessingError

BURST_SECONDS = 1.0
"""Calls that a rate allows within so long may begin at once."""


class Bucket:
    """A token bucket; starts full.

    Args:
        now: Time in seconds.
    """

    def __init__(self, now: float) -> None:
        self._rate = math.inf
        self._burst = math.inf
        self._tokens = math.inf
        self._since = now

    def change(self, per_second: float, now: float) -> None:
        """Another rate from `now` on."""
        tokens = self._at(now)
        self._rate = per_second
        self._burst = max(1.0, per_second * BURST_SECONDS)
        self._tokens, self._since = min(tokens, self._burst), now

    def next_at(self, now: float) -> float:
        """When a token is there: not after `now` if one is."""
        tokens = self._at(now)
        if tokens >= 1:
            return now
        return now + (1 - tokens) / self._rate if self._rate else math.inf

    def take(self, now: float) -> None:
        """Take one."""
        self._tokens, self._since = self._at(now) - 1, now

    def put_back(self) -> None:
        """One was not needed after all."""
        self._tokens = min(self._burst, self._tokens + 1)

    def _at(self, now: float) -> float:
        if math.isinf(self._rate):
            return self._tokens
        grown = self._tokens + max(0.0, now - self._since) * self._rate
        # Rounding must not leave a token out of reach at the very time that was promised.
        return min(self._burst, round(grown, 9))


class Call:
    """One call's account with all limits: settled once, with whichever comes first."""

    __slots__ = ("_control", "_inner", "_ticket")

    def __init__(self, control: FlowControl, inner: CircuitCall, ticket: Ticket) -> None:
        self._control = control
        self._inner = inner
        self._ticket = ticket

    @property
    def probe(self) -> bool:
        """Whether it is to find out if the flow works again."""
        return self._inner.probe

    def succeeded(self, now: float) -> None:
        """The server answered as it should."""
        if self._inner.succeeded():
            self._control._answered(self._ticket, now)

    def failed(self, error: ProcessingError, now: float) -> None:
        """The call failed."""
        if self._inner.failed(error, now):
            self._control._failed(self._ticket, error, now)

    def abandoned(self) -> None:
        """No call was made after all, or nobody waited for its end."""
        if self._inner.abandoned():
            self._control._abandoned(self._ticket)


class FlowControl:
    """Whether calls may begin.

    Args:
        concurrency: `spec.concurrency`.
        rate: `spec.rateLimit`.
        now: Time in seconds.
    """

    def __init__(self, concurrency: Concurrency, rate: RateLimit, now: float) -> None:
        self._concurrency = concurrency
        self._rate = rate
        self._circuit = Circuit(concurrency.per_replica)
        self._limiter = Limiter(concurrency.per_replica)
        self._bucket = Bucket(now)
        self._open_since: float | None = None
        self._open_before = 0.0
        self.share(1, 1, now)

    @property
    def slots(self) -> int:
        """Runs that may be in flight now, when the circuit is closed; at least 1."""
        return self._limiter.limit

    def slots_beside(self, elsewhere: int) -> int:
        """The same, while earlier owners of our partitions still run so many of their messages.

        Those count as ours, with `maxInFlight`: the partitions that they are from do.
        """
        whole = self._concurrency.max_in_flight
        return self.slots if whole is None else max(0, self.slots - elsewhere)

    @property
    def state(self) -> State:
        """Where the circuit stands."""
        return self._circuit.state

    @property
    def is_open(self) -> bool:
        """Whether failures are the flow's fault and not the messages'."""
        return self._circuit.is_open

    @property
    def reason(self) -> str:
        """CamelCase word for why the flow is not called; empty while it is."""
        return self._circuit.reason

    @property
    def message(self) -> str:
        """One sentence to go with `reason`."""
        return self._circuit.message

    def share(self, assigned: int, partitions: int, now: float) -> None:
        """Take this worker's share of what all may do together.

        Rates add up to the whole exactly. In-flight runs are whole numbers, at least 1 for each
        worker: where partitions are spread evenly, only more workers than `maxInFlight` exceed it.

        Args:
            assigned: Partitions of this worker.
            partitions: Partitions of all topics; what is assigned, if that is more.
            now: Time in seconds.
        """
        partitions = max(1, assigned, partitions)
        most = self._concurrency.per_replica
        if (whole := self._concurrency.max_in_flight) is not None:
            most = max(1, min(most, whole * assigned // partitions))
        self._limiter.resize(most)
        self._circuit.resize(most)
        if self._rate.requests_per_minute is not None:
            share = assigned / partitions
            self._bucket.change(self._rate.requests_per_minute / 60 * share, now)

    def allows(self, now: float) -> bool:
        """Whether a call may begin now, if a slot is free."""
        return self._circuit.allows(now) and self._bucket.next_at(now) <= now

    def next_time(self, now: float) -> float | None:
        """When a call may begin that may not now, if that is a matter of time."""
        times = [self._bucket.next_at(now), self._circuit.next_probe() or 0.0]
        return latest if now < (latest := max(times)) < math.inf else None

    def begin(self, running: int, now: float) -> Call:
        """Account for a call that `allows` has allowed.

        Args:
            running: Slots in use, with this one.
            now: Time in seconds.
        """
        self._bucket.take(now)
        return Call(self, self._circuit.begin(), self._limiter.begin(running, now))

    def trip(self, error: ProcessingError, now: float) -> None:
        """Open the circuit at once, for a reason found without a call."""
        self._circuit.trip(error, now)
        self._note(now)

    def recover(self, now: float) -> None:
        """What opened the circuit is repaired, which was found without a call."""
        self._circuit.recover()
        self._note(now)

    def clock(self, now: float) -> float:
        """A clock that stands still while the flow fails for all."""
        current = 0.0 if self._open_since is None else now - self._open_since
        return now - self._open_before - current

    def _answered(self, ticket: Ticket, now: float) -> None:
        self._limiter.answered(ticket, now)
        self._note(now)

    def _failed(self, ticket: Ticket, error: ProcessingError, now: float) -> None:
        if self.is_open:
            # The circuit's recovery begins with a single call and doubles: it finds anew what the
            # server can take.
            self._limiter.restore()
        elif error.failure is Failure.THROTTLE:
            self._limiter.throttled(ticket)
        elif error.timed_out:
            self._limiter.timed_out(ticket, now)
        else:
            self._limiter.dropped(ticket)
        self._note(now)

    def _abandoned(self, ticket: Ticket) -> None:
        self._limiter.dropped(ticket)
        self._bucket.put_back()

    def _note(self, now: float) -> None:
        if self.is_open and self._open_since is None:
            self._open_since = now
        elif not self.is_open and self._open_since is not None:
            self._open_before += now - self._open_since
            self._open_since = None
