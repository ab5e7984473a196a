"""From what is known of a binding to its conditions, but for their times. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flowbinding_api.binding import FlowBinding
from flowbinding_api.reasons import Reason
from flowbinding_api.status import ConditionStatus, ConditionType, ScalingStatus
from flowbinding_operator.lag import Observation, Partition, Summary
from flowbinding_operator.probed import Probed
from flowbinding_operator.references import Missing
from flowbinding_operator.scaling import Decision
from flowbinding_operator.topics import NOTHING, Provisioned
from flowbinding_operator.workers import Workers

TRUE, FALSE, UNKNOWN = ConditionStatus.TRUE, ConditionStatus.FALSE, ConditionStatus.UNKNOWN

FLOW_REASONS = frozenset(
    {reason for reason in Reason if reason.value.startswith("Flow")}
    | {Reason.ENGINE_MISSING, Reason.ECHO_INSTEAD}
) - {Reason.FLOW_ANSWERED}

UNANSWERED = frozenset({Reason.KAFKA_UNREACHABLE, Reason.KAFKA_UNAUTHORIZED})
"""Of a cluster that tells the operator nothing, the poller tells it better."""

MOST_NAMES = 8
"""Partitions that a message names."""

UNSCALED = frozenset(
    {Reason.STATIC, Reason.EXTERNAL, Reason.DRY_RUN, Reason.PAUSED, Reason.SKIPPED}
)
"""Reasons of decisions that do not follow the lag."""


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of a binding.

    Attributes:
        missing: What is wrong with the objects that it refers to.
        refused: What forbids writing its children: the API server, or that they are not its own.
        scaling: What the decision was made from.
        probed: What the flow server told the operator; None when it was not asked yet.
        topics: What became of the topics that it asks for.
    """

    observation: Observation | None
    decision: Decision
    workers: Workers
    missing: Missing | None = None
    refused: str = ""
    scaling: ScalingStatus | None = None
    probed: Probed | None = None
    topics: Provisioned = NOTHING


@dataclass(frozen=True, slots=True)
class State:
    """A condition without its times."""

    status: ConditionStatus
    reason: str
    message: str = ""


States = dict[ConditionType, State]


def states(binding: FlowBinding, view: View) -> States:
    """Every condition."""
    found: States = {
        ConditionType.TOPIC_AVAILABLE: _topic(binding, view),
        ConditionType.FLOW_CONFIGURED: flow_configured(binding, view.missing),
        ConditionType.FLOW_REACHABLE: _flow_reachable(view),
        ConditionType.WORKERS_AVAILABLE: workers_state(view.workers),
        ConditionType.SCALING_ACTIVE: _scaling_active(view),
        ConditionType.SCALING_LIMITED: _scaling_limited(view.decision, view.observation),
        ConditionType.PAUSED: paused_state(binding.spec.paused),
        ConditionType.DEGRADED: _degraded(view),
    }
    return {ConditionType.READY: _ready(binding, view, found), **found}


def _ready(binding: FlowBinding, view: View, found: States) -> State:
    """The first thing that keeps the binding from doing its work."""
    if view.refused:
        # Before what is missing: while both hold, that would hide a Deployment of somebody else's.
        return State(FALSE, Reason.APPLY_REFUSED, view.refused)
    if view.missing is not None:
        return State(FALSE, view.missing.reason, view.missing.message)
    topic = found[ConditionType.TOPIC_AVAILABLE]
    if topic.status is not TRUE:
        return topic
    if not binding.spec.flow.runs:
        return State(TRUE, Reason.SKIPPED, found[ConditionType.FLOW_CONFIGURED].message)
    workers = found[ConditionType.WORKERS_AVAILABLE]
    # Workers that start are the normal way of waking up, and no trouble.
    if workers.status is FALSE and workers.reason != Reason.WORKERS_STARTING:
        return workers
    for kind, bad in ((ConditionType.FLOW_REACHABLE, FALSE), (ConditionType.DEGRADED, TRUE)):
        if found[kind].status is bad:
            return State(FALSE, found[kind].reason, found[kind].message)
    return State(TRUE, Reason.PAUSED if binding.spec.paused else Reason.READY)


def _topic(binding: FlowBinding, view: View) -> State:
    found = _source_topic(binding, view.observation)
    trouble = view.topics.trouble
    if trouble is not None and trouble.reason not in UNANSWERED:
        # It says why a topic is missing.
        return State(FALSE, trouble.reason, trouble.message)
    if view.topics.asked and trouble is None and found.reason == Reason.TOPIC_MISSING:
        # The poller sees a new topic a few seconds later.
        return State(UNKNOWN, Reason.RECONCILING, "the topics are being made")
    if view.topics.note and found.status is TRUE:
        return State(TRUE, Reason.MORE_PARTITIONS, f"{found.message}; {view.topics.note}")
    return found


def provisioned(topics: Provisioned) -> State | None:
    """What there is to tell of topics that nothing is read from; None if none are asked for."""
    if topics.trouble is not None:
        away = topics.trouble.reason is Reason.KAFKA_UNREACHABLE
        return State(UNKNOWN if away else FALSE, topics.trouble.reason, topics.trouble.message)
    if not topics.asked:
        return None
    if not topics.done:
        return State(UNKNOWN, Reason.RECONCILING, "the topics are being made")
    return State(TRUE, Reason.MORE_PARTITIONS if topics.note else Reason.TOPIC_FOUND, topics.note)


def _source_topic(binding: FlowBinding, observation: Observation | None) -> State:
    if binding.spec.kafka.bootstrap_servers is None:
        message = "set spec.kafka.bootstrapServers, or the operator's default"
        return State(FALSE, Reason.KAFKA_NOT_CONFIGURED, message)
    if observation is None or (observation.trouble is None and observation.partitions is None):
        return State(UNKNOWN, Reason.RECONCILING, "Kafka has not been asked yet")
    if observation.trouble is not None:
        # Nothing is known of a topic whose cluster does not answer.
        away = observation.trouble.reason is Reason.KAFKA_UNREACHABLE
        status = UNKNOWN if away else FALSE
        return State(status, observation.trouble.reason, observation.trouble.message)
    if observation.output is not None:
        message = f"results cannot be written: {observation.output.message}"
        return State(FALSE, observation.output.reason, message)
    return State(TRUE, Reason.TOPIC_FOUND, _partitions(observation.partitions))


def flow_configured(binding: FlowBinding, missing: Missing | None) -> State:
    """Whether there is a flow to run."""
    if not binding.spec.flow.runs:
        return State(FALSE, Reason.SKIPPED, "spec.flow.id is not set: nothing runs")
    if missing is not None and missing.field.startswith("spec.flow."):
        return State(FALSE, missing.reason, missing.message)
    return State(TRUE, Reason.CONFIGURED)


def _flow_reachable(view: View) -> State:
    summary = view.observation.summary if view.observation else Summary()
    if summary.reason == Reason.ECHO_INSTEAD:
        return State(TRUE, summary.reason, summary.message)
    if summary.reason in FLOW_REASONS:
        return State(FALSE, summary.reason, summary.message)
    if summary.answered:
        return State(TRUE, Reason.FLOW_ANSWERED)
    if view.probed is not None:
        return State(view.probed.status, view.probed.reason, view.probed.message)
    return State(UNKNOWN, Reason.NOT_CALLED_YET, "no worker has had an answer since it started")


def workers_state(workers: Workers) -> State:
    """Whether the workers that should run do."""
    counts = f"{workers.ready} of {workers.desired} ready"
    if workers.desired == 0:
        return State(TRUE, Reason.SCALED_TO_ZERO)
    if workers.ready > 0:
        return State(TRUE, Reason.WORKERS_READY, counts)
    if workers.trouble is not None:
        return State(FALSE, workers.trouble, f"{counts}; {workers.message}")
    return State(FALSE, Reason.WORKERS_STARTING, counts)


def paused_state(paused: bool) -> State:
    """Whether the user has stopped it."""
    if paused:
        return State(TRUE, Reason.PAUSED, "spec.paused is true: no workers run")
    return State(FALSE, Reason.NOT_PAUSED)


def _scaling_active(view: View) -> State:
    decision = view.decision
    if decision.reason is Reason.LAG_UNKNOWN:
        trouble = view.observation.trouble if view.observation else None
        text = trouble.message if trouble else "Kafka has not been asked yet"
        return State(FALSE, Reason.LAG_UNKNOWN, f"replicas stay as they are: {text}")
    if decision.reason is Reason.FALLBACK:
        return State(FALSE, Reason.FALLBACK, "the lag is unknown: spec.scaling.fallback decides")
    if decision.reason in UNSCALED:
        return State(FALSE, decision.reason)
    return State(TRUE, Reason.LAG_KNOWN)


def _partitions(number: int | None) -> str:
    return f"{number} partition{'' if number == 1 else 's'}"


def _scaling_limited(decision: Decision, observation: Observation | None) -> State:
    if decision.limited is None or decision.reason in UNSCALED:
        return State(FALSE, Reason.NOT_LIMITED)
    listed = observation.listed if observation else ()
    shared = _partitions(decision.partitions)
    texts = {
        Reason.PARTITION_LIMIT: f"more workers than {shared} are of no use",
        Reason.MAX_REPLICAS: "spec.scaling.maxReplicas is reached",
        Reason.SCHEDULE: f"a schedule allows no more than {decision.highest} workers",
        Reason.HOT_PARTITION: f"{_named(decision.hot, listed)} gets more than one worker can do",
        Reason.PARTITION_STALLED: f"nothing is done of {_stalled(decision.stalled, listed)}",
        Reason.BACKEND_SATURATED: "more workers would get nothing more done",
        Reason.IN_FLIGHT_LIMIT: "spec.concurrency.maxInFlight is reached",
        Reason.RATE_LIMIT: "spec.rateLimit is reached",
    }
    return State(TRUE, decision.limited, texts.get(decision.limited, ""))


def _stalled(stalled: Sequence[int], listed: Sequence[Partition]) -> str:
    """Partitions by their names; none of them stands for all."""
    names = ", ".join(_named(index, listed) for index in stalled[:MOST_NAMES])
    more = f" and {len(stalled) - MOST_NAMES} more" if len(stalled) > MOST_NAMES else ""
    return f"{names}{more}" or "any partition"


def _named(index: int | None, listed: Sequence[Partition]) -> str:
    """A partition as people know it: `orders/3`."""
    if index is None or index >= len(listed):
        return "a partition"
    return f"{listed[index].topic}/{listed[index].partition}"


def _degraded(view: View) -> State:
    summary = view.observation.summary if view.observation else Summary()
    if summary.reason and summary.reason not in FLOW_REASONS:
        return State(TRUE, summary.reason, summary.message)
    if view.workers.ready > 0 and view.workers.trouble is not None:
        return State(TRUE, view.workers.trouble, view.workers.message)
    if view.observation is not None and view.observation.rewound is not None:
        return State(TRUE, view.observation.rewound.reason, view.observation.rewound.message)
    return State(FALSE, Reason.HEALTHY)
