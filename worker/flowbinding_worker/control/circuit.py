"""Stops calling a flow that fails for everybody, and finds out when it works again. Pure.

    CLOSED ──a configuration failure, or half of the last 20 calls failing──▶ OPEN
    OPEN ──the time of the next probe──▶ HALF_OPEN: one call
    HALF_OPEN ──it fails──▶ OPEN, for longer        ──it succeeds──▶ RECOVERING
    RECOVERING: 1, 2, 4 … calls at once ──as many as there are slots──▶ CLOSED

Calls that began before the circuit changed say nothing about it any more and are ignored.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum

from flowbinding_worker.ports import Failure, ProcessingError

WINDOW = 20
"""Calls that are looked back upon."""
FIRST_PROBE_SECONDS = 2.0
MAX_PROBE_SECONDS = 15.0
"""Longest time between probes after a configuration failure: a repair shows within it."""
MAX_PROBE_SECONDS_TRANSIENT = 5.0
"""The same after failures that pass by themselves."""
MAX_THROTTLE_SECONDS = 300.0
"""Longest silence that a server may ask for."""


class State(IntEnum):
    """The number is what the metric shows."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2
    RECOVERING = 3


class Call:
    """One call's account with the circuit: settled once, with whichever comes first."""

    __slots__ = ("_circuit", "_era", "_open", "probe")

    def __init__(self, circuit: Circuit, era: int, *, probe: bool) -> None:
        self._circuit = circuit
        self._era = era
        self._open = True
        self.probe = probe

    def succeeded(self) -> bool:
        """The server answered as it should.

        Returns:
            Whether that counted: False for a call that was settled before, or is out of date.
        """
        if current := self._settle():
            self._circuit._on_success()
        return current

    def failed(self, error: ProcessingError, now: float) -> bool:
        """The call failed. A message that can never succeed says nothing against the flow.

        Returns:
            As `succeeded` does.
        """
        if error.failure is Failure.POISON:
            return self.succeeded()
        if current := self._settle():
            self._circuit._on_failure(error, now)
        return current

    def abandoned(self) -> bool:
        """No call was made after all, or nobody waited for its end.

        Returns:
            As `succeeded` does.
        """
        if current := self._settle():
            self._circuit._on_abandoned()
        return current

    def _settle(self) -> bool:
        current = self._open and self._era == self._circuit._era
        self._open = False
        return current


class Circuit:
    """Whether calls may begin.

    Args:
        slots: Calls that may be in flight when all is well.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._state = State.CLOSED
        self._era = 0
        self._calls = 0
        self._limit = slots
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._wait = 0.0
        self._probe_at = 0.0
        self.reason = ""
        """CamelCase word for why it is not closed; empty while it is."""
        self.message = ""
        """One sentence to go with `reason`."""

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def is_open(self) -> bool:
        """Whether failures are the flow's fault and not the messages'."""
        return self._state in (State.OPEN, State.HALF_OPEN)

    def next_probe(self) -> float | None:
        """When the next call is allowed, if that is a matter of time."""
        return self._probe_at if self._state is State.OPEN else None

    def allows(self, now: float) -> bool:
        """Whether a call may begin now."""
        if self._state is State.CLOSED:
            return True
        if self._state is State.RECOVERING:
            return self._calls < self._limit
        return self._state is State.OPEN and now >= self._probe_at

    def begin(self) -> Call:
        """Account for a call that `allows` has allowed."""
        if self._state is State.OPEN:
            self._enter(State.HALF_OPEN)
        self._calls += 1
        return Call(self, self._era, probe=self._state is State.HALF_OPEN)

    def trip(self, error: ProcessingError, now: float) -> None:
        """Open at once, for a reason found without a call."""
        lasting = error.failure is Failure.CONFIGURATION
        most = MAX_PROBE_SECONDS if lasting else MAX_PROBE_SECONDS_TRANSIENT
        self._wait = min(most, self._wait * 2 or FIRST_PROBE_SECONDS)
        asked = 0.0
        if error.failure is Failure.THROTTLE:
            asked = min(error.retry_after_seconds or 0.0, MAX_THROTTLE_SECONDS)
        self._probe_at = now + max(self._wait, asked)
        self.reason, self.message = error.reason, str(error)
        self._enter(State.OPEN)

    def resize(self, slots: int) -> None:
        """Another number of calls that may be in flight when all is well."""
        self._slots = slots

    def recover(self) -> None:
        """What opened it is repaired, which was found without a call."""
        self.reason = self.message = ""
        self._limit = 1
        self._enter(State.RECOVERING)

    def _on_success(self) -> None:
        self._calls -= 1
        self._recent.append(True)
        if self._state is State.HALF_OPEN:
            self.recover()
        if self._state is State.RECOVERING:
            # One more for each success doubles with each round of calls.
            self._limit += 1
            if self._limit >= self._slots:
                self._wait = 0.0
                # Calls in flight stay valid: nothing turned against them.
                self._state = State.CLOSED

    def _on_failure(self, error: ProcessingError, now: float) -> None:
        self._calls -= 1
        self._recent.append(False)
        probing = self._state is State.HALF_OPEN
        if probing or error.failure is Failure.CONFIGURATION or self._half_failed(error):
            self.trip(error, now)

    def _on_abandoned(self) -> None:
        self._calls -= 1
        if self._state is State.HALF_OPEN:
            # The probe found nothing out: the next message may try at once.
            self._enter(State.OPEN)

    def _half_failed(self, error: ProcessingError) -> bool:
        enough = WINDOW
        if self._state is State.RECOVERING:
            # A server that takes one call or two, and refuses more, works all the same.
            enough = 5 if error.failure is Failure.THROTTLE else 2
        failed = self._recent.count(False)
        return len(self._recent) >= enough and 2 * failed >= len(self._recent)

    def _enter(self, state: State) -> None:
        self._state = state
        self._era += 1
        self._calls = 0
        self._recent.clear()
