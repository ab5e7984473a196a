"""From observations to decisions: keeps each binding's history and says when something changed.

The policy is `scaling.decide`; this is only its memory. It does no I/O and starts nothing: a change
that matters is told to `changed`, which enqueues the binding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flowbinding_api.spec import FlowBindingSpec
from flowbinding_operator.lag import Observation
from flowbinding_operator.scaling import Decision, History, Sample, decide
from flowbinding_operator.status import LAG_AGE_SECONDS, lag_moved

TELL_SECONDS = 5.0
"""How often the same meaning is worth a reconcile."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What there was to tell at one time."""

    meaning: tuple[object, ...]
    lag: int | None
    time: float


@dataclass(slots=True)
class Track:
    """What is remembered of a binding.

    Attributes:
        observation: The newest one that says something; None before the first.
        told: What asked for a reconcile last.
        written: What the status tells of.
    """

    spec: FlowBindingSpec
    history: History
    observation: Observation | None = None
    told: Stamp | None = None
    written: Stamp | None = None

    def decide(self) -> Decision:
        """Decide anew from the history as it is."""
        return decide(self.history, self.spec)


class Autoscaler:
    """All bindings' histories."""

    def __init__(self, changed: Callable[[str], None]) -> None:
        self._changed = changed
        self._tracks: dict[str, Track] = {}

    def track(self, key: str, spec: FlowBindingSpec, start: Callable[[], History]) -> Track:
        """The track of a binding, brought up to date.

        Args:
            key: The binding.
            spec: What the user wants now.
            start: Makes the history of a binding that has none here: after a restart, what was set
                before goes on until the lag is known.
        """
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = Track(spec, start())
        track.spec = spec
        return track

    def forget(self, key: str) -> None:
        """Drop a binding."""
        self._tracks.pop(key, None)

    def observe(self, key: str, observation: Observation) -> None:
        """Take in an observation; have the binding reconciled if it means a change."""
        track = self._tracks.get(key)
        if track is None:
            return
        summary = observation.summary
        sample = Sample(
            time=observation.time,
            lag=observation.lag,
            end=observation.end,
            partitions=observation.partitions,
            seconds_per_message=summary.seconds_per_message,
        )
        track.history.observe(sample)
        decision = track.decide()
        track.history.remember(decision, track.spec.scaling.behavior)
        if observation.blank:
            # Kafka has missed one answer. That stops scaling, and is no news yet.
            return
        track.observation = observation
        stamp = stamp_of(observation, decision)
        if _fresh(stamp, track.told) and self._matters(track, observation, decision, stamp):
            track.told = stamp
            self._changed(key)

    def _matters(
        self, track: Track, observation: Observation, decision: Decision, stamp: Stamp
    ) -> bool:
        if decision.replicas is not None and decision.replicas != track.history.replicas:
            return True
        written = track.written
        if written is None or stamp.meaning != written.meaning:
            return True
        elapsed = stamp.time - written.time
        ages = bool(observation.lag) and elapsed >= LAG_AGE_SECONDS
        return ages or lag_moved(written.lag, observation.lag, elapsed)


def stamp_of(observation: Observation, decision: Decision) -> Stamp:
    """What there is to tell."""
    return Stamp(_meaning(observation, decision), observation.lag, observation.time)


def _fresh(stamp: Stamp, told: Stamp | None) -> bool:
    """Whether this was not told just now: a reconcile that fails has a back-off of its own."""
    return told is None or stamp.meaning != told.meaning or stamp.time - told.time >= TELL_SECONDS


def _meaning(observation: Observation, decision: Decision) -> tuple[object, ...]:
    """What people would call a change, as opposed to numbers that move all the time."""
    trouble = observation.trouble
    return (
        trouble,
        observation.lag is None,
        observation.lag == 0,
        observation.partitions,
        decision.replicas,
        decision.reason,
        decision.limited,
        bool(decision.arrival_rate),
        observation.summary.reason,
        observation.summary.message,
        observation.summary.answered,
    )
