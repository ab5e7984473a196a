"""From observations to decisions: keeps each binding's history and says when something changed.

The policy is `scaling.decide`; this is only its memory. It does no I/O and starts nothing: a change
that matters is told to `changed`, which enqueues the binding in a lane of the queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flowbinding_api.reasons import Reason
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_api.status import ScalingStatus
from flowbinding_operator.explained import explained
from flowbinding_operator.lag import Observation, Summary
from flowbinding_operator.lanes import Lane
from flowbinding_operator.scaling import Decision, History, Sample, decide
from flowbinding_operator.status import LAG_AGE_SECONDS, lag_moved

TELL_SECONDS = 5.0
"""How often the same meaning is worth a reconcile."""
WRITE_SECONDS = 1.0
"""So much later than its observation a status may be written: asked for too soon, a reconcile would
find that the last write is too young, and the next one comes only after TELL_SECONDS."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What there was to tell at one time.

    Attributes:
        meaning: What is told at once when it changes.
        mood: What is told when it has changed and nothing else was told for a while.
        time: Of the observation, on the poller's clock.
    """

    meaning: tuple[object, ...]
    mood: tuple[object, ...]
    lag: int | None
    time: float


@dataclass(slots=True)
class Track:
    """What is remembered of a binding.

    Attributes:
        observation: The newest one that says something; None before the first.
        told: What asked for a reconcile last.
        written: What the status tells of.
        decision: The one on the last observation; None when it need not hold any more.
        decided_for: How many workers were set to run then.
        sure: The one on `observation`; None when its lag is unknown, or the spec another one now.
    """

    spec: FlowBindingSpec
    history: History
    observation: Observation | None = None
    told: Stamp | None = None
    written: Stamp | None = None
    decision: Decision | None = None
    decided_for: int | None = None
    sure: Decision | None = None

    @property
    def source(self) -> tuple[object, ...]:
        """What offsets are of: numbers of another cluster, group or topics mean nothing here."""
        source = self.spec.source
        return (source.all_topics, source.consumer_group, self.spec.kafka.brokers)

    def follow(self, spec: FlowBindingSpec) -> None:
        """Take in what the user wants now."""
        if spec is self.spec or spec == self.spec:
            return
        before, self.spec = self.source, spec
        self.decision = self.sure = None
        if self.source != before:
            self.blind()

    def blind(self) -> None:
        """Forget what was seen: it says nothing of what is there now."""
        self.observation = self.told = self.written = self.decision = self.sure = None
        self.history.restart()

    def decide(self) -> Decision:
        """Decide anew from the history as it is."""
        return decide(self.history, self.spec)

    def standing(self) -> Decision:
        """What to do and to tell at any time.

        While Kafka misses an answer, replicas stay as they are, and nothing else is news.
        """
        decision = self.decision
        if decision is None or self.decided_for != self.history.replicas:
            decision = self.decide()
        if decision.reason is Reason.LAG_UNKNOWN and self.sure is not None:
            return replace(self.sure, replicas=decision.replicas)
        return decision

    def sleeps_on(self, observation: Observation) -> bool:
        """Whether the last decision was to sleep, and nothing has happened since.

        Most of many bindings sleep, most of the time, and would be decided on in vain.
        """
        last, before = self.decision, self.observation
        return (
            last is not None
            and before is not None
            and last.reason is Reason.IDLE
            and (last.replicas, self.history.replicas, last.arrival_rate) == (0, 0, 0.0)
            and not self.spec.scaling.schedules
            and (observation.lag, before.lag) == (0, 0)
            and (observation.end, observation.partitions) == (before.end, before.partitions)
            and observation.summary == before.summary
        )

    def explain(self, decision: Decision) -> ScalingStatus | None:
        """What a decision was made from."""
        summary = self.observation.summary if self.observation else Summary()
        return explained(self.history, self.spec, decision, slots_of(summary))


Changed = Callable[[str, Lane], object]
"""Told of a binding that something has changed of, and how much haste there is."""


class Autoscaler:
    """All bindings' histories."""

    def __init__(self, changed: Changed) -> None:
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
        track.follow(spec)
        return track

    def blind(self, key: str) -> None:
        """Nothing is watched for a binding: the last lag that was seen must decide nothing."""
        if track := self._tracks.get(key):
            track.blind()

    def forget(self, key: str) -> None:
        """Drop a binding."""
        self._tracks.pop(key, None)

    def observe(self, key: str, observation: Observation) -> None:
        """Take in an observation; have the binding reconciled if it means a change."""
        track = self._tracks.get(key)
        if track is None:
            return
        asleep = track.decision if track.sleeps_on(observation) else None
        track.history.observe(sample_of(observation))
        decision = track.decision = asleep or track.decide()
        track.decided_for = track.history.replicas
        track.history.remember(decision, track.spec.scaling.behavior)
        if observation.blank:
            # Kafka has missed one answer. That stops scaling, and is no news yet.
            return
        track.observation = observation
        track.sure = None if observation.lag is None else decision
        stamp = stamp_of(observation, decision)
        if not _fresh(stamp, track.told):
            return
        lane = _lane(track, observation, decision, stamp)
        if lane is not None:
            track.told = stamp
            self._changed(key, lane)


def _lane(track: Track, observation: Observation, decision: Decision, stamp: Stamp) -> Lane | None:
    """How much haste there is to tell of an observation; None when it is not worth it."""
    set_to, wanted = track.history.replicas, decision.replicas
    if wanted is not None and wanted != set_to:
        return Lane.NOW if wanted > (set_to or 0) else Lane.SOON
    written = track.written
    if written is None or stamp.meaning != written.meaning:
        return Lane.SOON
    elapsed = stamp.time - written.time - WRITE_SECONDS
    restless = bool(observation.lag) or stamp.mood != written.mood
    # Asked at every poll, so this also brings what was not worth a write when it happened.
    old = restless and elapsed >= LAG_AGE_SECONDS
    return Lane.LATER if old or lag_moved(written.lag, observation.lag, elapsed) else None


def sample_of(observation: Observation) -> Sample:
    """What of an observation matters to scaling."""
    summary = observation.summary
    return Sample(
        time=observation.time,
        lag=observation.lag,
        end=observation.end,
        partitions=observation.partitions,
        seconds_per_message=summary.seconds_per_message,
        unix=observation.unix,
        ends=observation.ends,
        done=observation.done,
        workers=observation.ready,
        slots=slots_of(summary),
        trouble=summary.reason,
    )


def slots_of(summary: Summary) -> float | None:
    """Runs that one worker may have in flight, by the workers' own word."""
    return summary.slots / summary.workers if summary.workers else None


def stamp_of(observation: Observation, decision: Decision) -> Stamp:
    """What there is to tell."""
    mood = (decision.reason, bool(decision.arrival_rate))
    return Stamp(_meaning(observation, decision), mood, observation.lag, observation.time)


def _fresh(stamp: Stamp, told: Stamp | None) -> bool:
    """Whether this was not told just now: a reconcile that fails has a back-off of its own."""
    return told is None or stamp.meaning != told.meaning or stamp.time - told.time >= TELL_SECONDS


def _meaning(observation: Observation, decision: Decision) -> tuple[object, ...]:
    """What people would call a change, as opposed to numbers that move all the time."""
    trouble = observation.trouble
    return (
        trouble,
        observation.output,
        observation.rewound,
        observation.lag is None,
        observation.partitions,
        decision.replicas,
        decision.recommended,
        decision.limited,
        observation.summary.reason,
        observation.summary.message,
        observation.summary.answered,
    )
