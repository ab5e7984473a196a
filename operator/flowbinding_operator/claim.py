"""When a candidate for a Lease may act, and when it may follow another. Pure.

The algorithm is that of client-go's `leaderelection`: a candidate believes a holder for the lease's
duration after it has seen the Lease change, on its own steady clock, so clocks need not agree. The
holder renews it long before that, and stops earlier than anybody may follow: it acts only until
two thirds of the duration have gone by since it sent its last successful renewal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEASE_SECONDS = 15.0

Object = Mapping[str, Any]


@dataclass(slots=True)
class Claim:
    """One candidate's view.

    Args:
        identity: Of this candidate, and of no other process.
        seconds: How long a lease lasts.
    """

    identity: str
    seconds: float = LEASE_SECONDS
    until: float = float("-inf")
    """Before this time, it may act."""
    _seen: tuple[str, ...] = ()
    _seen_at: float = float("-inf")

    def holds(self, now: float) -> bool:
        """Whether this candidate may act."""
        return now < self.until

    def renewed(self, sent: float) -> None:
        """A renewal succeeded that was sent at `sent`."""
        self.until = sent + self.seconds * 2 / 3

    def given_up(self) -> None:
        """It must not act any more."""
        self.until = float("-inf")

    def may_take(self, spec: Object, now: float) -> bool:
        """Whether the Lease may be taken, or is this candidate's own.

        Args:
            spec: Of the Lease as it was read.
            now: When it was read.
        """
        holder = str(spec.get("holderIdentity") or "")
        if holder in ("", self.identity):
            return True
        fields = ("renewTime", "acquireTime", "leaseTransitions", "leaseDurationSeconds")
        seen = (holder, *(str(spec.get(field)) for field in fields))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        # The holder's duration, in case that it was set up otherwise.
        lasts = max(self.seconds, float(spec.get("leaseDurationSeconds") or 0))
        return now - self._seen_at >= lasts

    def may_make(self, now: float) -> bool:
        """Whether a Lease that is not there may be made: whoever held it may act for a while yet.

        Args:
            now: When it was found missing.
        """
        return self.holds(now) or now - self._seen_at >= self.seconds

    def spec(self, old: Object, now: str) -> dict[str, Any]:
        """What the Lease says when this candidate holds it."""
        mine = old.get("holderIdentity") == self.identity
        transitions = int(old.get("leaseTransitions") or 0)
        return {
            **old,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self.seconds)),
            "acquireTime": old.get("acquireTime") or now if mine else now,
            "renewTime": now,
            "leaseTransitions": transitions if mine or not old else transitions + 1,
        }
