"""Prometheus metrics of a worker. No offsets, keys or ids as labels."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """All metrics, in a registry of their own so that a process may hold several workers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.messages = self._counter("messages", "Messages that are done.", "outcome")
        self.failures = self._counter("flow_failures", "Runs that failed.", "failure")
        self.tokens = self._counter(
            "tokens", "Tokens that runs have used, as far as answers tell (input, output).", "kind"
        )
        self.commits = self._counter("commits", "Commits that the broker has acknowledged.")
        self.rebalances = self._counter("rebalances", "Times that partitions were taken away.")
        self.dead_letters = self._counter("dead_letters", "Dead letters written.", "reason")
        self.spool_broken = self._counter(
            "spool_broken", "Stored records that could not be read; their messages run again."
        )
        self.handovers = self._counter(
            "handovers",
            "Running messages when their partition went (HandedOver, Waited, Cancelled, Fenced),"
            " and others' when it came (Finished, TakenOver).",
            "outcome",
        )
        self.schema_requests = self._counter(
            "schema_requests",
            "Requests to the schema registry (Found, Unknown, Failed).",
            "outcome",
        )
        self.metadata_ignored = self._counter(
            "metadata_ignored",
            "Times that commit metadata was foreign, broken or of another topic.",
        )
        self.flow_seconds = Histogram(
            "flowbinding_worker_flow_request_duration_seconds",
            "Duration of flow runs, failed ones included.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.drain_seconds = Histogram(
            "flowbinding_worker_rebalance_drain_seconds",
            "Time that a rebalance waited for running messages.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        info = Info("flowbinding_worker_build", "Version of the worker.", registry=self._registry)
        info.info({"version": _version()})

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge whose value is asked for when metrics are read."""
        gauge = Gauge(f"flowbinding_worker_{name}", text, registry=self._registry)
        gauge.set_function(value)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"flowbinding_worker_{name}", text, labels, registry=self._registry)


def _version() -> str:
    try:
        return version("flowbinding")
    except PackageNotFoundError:
        return "unknown"
