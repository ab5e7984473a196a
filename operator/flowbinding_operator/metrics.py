"""Prometheus metrics of the operator. Series of a binding go with it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from flowbinding_api.status import FlowBindingStatus
from flowbinding_operator.lag import Observation

Values = dict[tuple[str, ...], int]
"""A gauge's value by its labels."""

PREFIX = "flowbinding_operator_"
POLL_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)
LOOP_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """All of them, on a registry of their own."""

    def __init__(self) -> None:
        # Described, so that /metrics?name[]=… finds what the process collector has.
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        self._add_work()
        self._add_kafka()
        self._add_offsets()
        self._add_kubernetes()
        self._add_bindings()
        # With the series itself: looking it up by its labels costs more than setting it.
        self._series: dict[str, dict[tuple[Gauge, tuple[str, ...]], Gauge]] = {}

    def _add_work(self) -> None:
        """How much there is to do, and whether this process keeps up with it."""
        registry = self.registry
        self.reconciles = Counter(
            f"{PREFIX}reconcile_total", "Reconciliations.", ["result"], registry=registry
        )
        self.reconcile_seconds = Histogram(
            f"{PREFIX}reconcile_duration_seconds", "Time of a reconciliation.", registry=registry
        )
        self.queue_depth = Gauge(
            f"{PREFIX}workqueue_depth",
            "Bindings that are due and wait to be reconciled.",
            registry=registry,
        )
        self.bindings = Gauge(f"{PREFIX}bindings", "Bindings known.", registry=registry)
        self.leader = Gauge(
            f"{PREFIX}leader",
            "1 while this operator acts, 0 while it stands by.",
            registry=registry,
        )
        self.loop_lag = Histogram(
            f"{PREFIX}event_loop_lag_seconds",
            "How late a timer of the event loop is, once a second.",
            buckets=LOOP_BUCKETS,
            registry=registry,
        )

    def _add_kafka(self) -> None:
        """What is asked of each cluster, which is named by its bootstrap servers."""
        registry = self.registry
        self.polls = Counter(
            f"{PREFIX}lag_polls_total", "Looks at a Kafka cluster.", ["cluster"], registry=registry
        )
        self.poll_failures = Counter(
            f"{PREFIX}lag_poll_failures_total",
            "Looks at a Kafka cluster that failed as a whole.",
            ["cluster"],
            registry=registry,
        )
        self.poll_seconds = Histogram(
            f"{PREFIX}lag_poll_duration_seconds",
            "Time of a look at a Kafka cluster, with all that follows from it in this process.",
            ["cluster"],
            buckets=POLL_BUCKETS,
            registry=registry,
        )
        self.kafka_requests = Counter(
            f"{PREFIX}kafka_requests_total",
            "Requests to Kafka.",
            ["cluster", "api"],
            registry=registry,
        )

    def _add_offsets(self) -> None:
        """What is found in groups' commits, and made there."""
        registry = self.registry
        self.fetches = Counter(
            f"{PREFIX}offset_fetches_total", "Reads of a group's commits.", registry=registry
        )
        self.seeded = Counter(
            f"{PREFIX}offsets_seeded_total",
            "Commits made for groups without members: where they start, or start anew.",
            registry=registry,
        )
        self.rewound = Counter(
            f"{PREFIX}offsets_out_of_range_total",
            "Partitions found to end before what was committed of them.",
            registry=registry,
        )
        self.broken_metadata = Counter(
            f"{PREFIX}broken_commit_metadata_total",
            "Commits whose metadata is not a worker's, or damaged.",
            registry=registry,
        )

    def _add_kubernetes(self) -> None:
        """What is written to the API server."""
        registry = self.registry
        self.writes = Counter(
            f"{PREFIX}kubernetes_writes_total", "Writes to Kubernetes.", ["kind"], registry=registry
        )
        self.events = Counter(
            f"{PREFIX}events_total", "Events recorded.", ["type", "reason"], registry=registry
        )

    def _add_bindings(self) -> None:
        """What is known of each binding; these series go with it."""
        registry, binding = self.registry, ["namespace", "name"]
        self.last_poll = Gauge(
            f"{PREFIX}last_lag_poll_timestamp_seconds",
            "Unix time of a binding's last answer from Kafka.",
            binding,
            registry=registry,
        )
        self.lag = Gauge(
            f"{PREFIX}consumer_group_lag",
            "Messages not yet done.",
            [*binding, "topic"],
            registry=registry,
        )
        self.desired = Gauge(
            f"{PREFIX}desired_replicas", "Workers that should run.", binding, registry=registry
        )
        self.condition = Gauge(
            f"{PREFIX}condition",
            "1 while the condition is True, 0 while it is False, -1 while unknown.",
            [*binding, "type", "reason"],
            registry=registry,
        )

    def observed(self, key: str, observation: Observation, unix_time: float) -> None:
        """Show an observation. An unknown lag has no series: no alert may take it for zero."""
        names = _names(key)
        if observation.lag is not None:
            self._set(key, self.last_poll, names, unix_time)
        wanted: Values = {(*names, topic): lag for topic, lag in observation.by_topic.items()}
        self._replace(key, self.lag, wanted)

    def unobserved(self, key: str) -> None:
        """Show no observation any more: nothing is watched for the binding."""
        for gauge in (self.lag, self.last_poll):
            self._replace(key, gauge, {})

    def reported(self, key: str, status: FlowBindingStatus) -> None:
        """Show a status."""
        names, desired = _names(key), status.desired_replicas
        self._replace(key, self.desired, {} if desired is None else {names: desired})
        values = {"True": 1, "False": 0, "Unknown": -1}
        wanted: Values = {
            (*names, item.type, item.reason): values[item.status.value]
            for item in status.conditions
        }
        self._replace(key, self.condition, wanted)

    def forget(self, key: str) -> None:
        """Remove all series of a binding."""
        for gauge, labels in self._series.pop(key, {}):
            gauge.remove(*labels)

    def forget_cluster(self, name: str) -> None:
        """Remove all series of a Kafka cluster."""
        for metric in (self.polls, self.poll_failures, self.poll_seconds, self.kafka_requests):
            metric.remove_by_labels({"cluster": name})

    def clear(self) -> None:
        """Remove the series of all bindings."""
        for key in list(self._series):
            self.forget(key)
        for gauge in (self.queue_depth, self.bindings):
            gauge.set_function(lambda: 0)

    def _replace(self, key: str, gauge: Gauge, wanted: Values) -> None:
        stale = {s for s in self._series.get(key, ()) if s[0] is gauge and s[1] not in wanted}
        self._remove(key, stale)
        for labels, value in wanted.items():
            self._set(key, gauge, labels, value)

    def _remove(self, key: str, stale: Iterable[tuple[Gauge, tuple[str, ...]]]) -> None:
        for gauge, labels in stale:
            gauge.remove(*labels)
            del self._series[key][gauge, labels]

    def _set(self, key: str, gauge: Gauge, labels: tuple[str, ...], value: float) -> None:
        series = self._series.setdefault(key, {})
        known = series.get((gauge, labels))
        if known is None:
            known = series[gauge, labels] = gauge.labels(*labels)
        known.set(value)


def _names(key: str) -> tuple[str, str]:
    namespace, _, name = key.partition("/")
    return namespace, name
