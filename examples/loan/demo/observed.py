"""What the demo sees: bindings through kubectl, decisions on the topic."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import kafkaio
from testbed import Testbed, TestbedError

POLL_SECONDS = 0.5


@dataclass
class BindingView:
    """One row of the table."""

    name: str
    topic: str
    output: str
    wanted: int
    ready: int
    lag: int | None
    lag_seconds: float | None
    rate: float | None
    per_replica: float | None
    reason: str
    healthy: bool
    trouble: str

    @classmethod
    def of(cls, item: dict[str, Any]) -> BindingView:
        """From a FlowBinding as the API server gives it."""
        status = item.get("status", {})
        conditions = {c["type"]: c for c in status.get("conditions", [])}
        ready = conditions.get("Ready", {})
        return cls(
            name=item["metadata"]["name"],
            topic=item["spec"]["source"]["topic"],
            output=item["spec"]["output"]["topic"],
            wanted=status.get("desiredReplicas") or 0,
            ready=status.get("readyReplicas") or 0,
            lag=status.get("lag"),
            lag_seconds=status.get("lagSeconds"),
            rate=status.get("arrivalRate"),
            per_replica=status.get("ratePerReplica"),
            reason=status.get("reason", ""),
            healthy=ready.get("status") == "True",
            trouble="" if ready.get("status") == "True" else ready.get("reason", "…"),
        )


def in_order(bindings: list[BindingView], topic: str) -> list[BindingView]:
    """The bindings of a chain that begins at `topic`."""
    by_topic = {binding.topic: binding for binding in bindings}
    chain = []
    while topic in by_topic:
        chain.append(by_topic.pop(topic))
        topic = chain[-1].output
    return chain


@dataclass
class Observed:
    """The state of the demo, changed by the watchers and read by the view."""

    bed: Testbed
    namespace: str
    requests_topic: str
    decision_topics: tuple[str, ...]
    bindings: list[BindingView] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    decided: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    peak: Counter[str] = field(default_factory=Counter)
    log: list[tuple[float, str]] = field(default_factory=list)
    total: int = 0
    started: float = field(default_factory=time.monotonic)
    burst_at: float | None = None
    wanted_after: float | None = None
    full_after: float | None = None
    asleep_after: float | None = None
    _known: set[str] = field(default_factory=set)

    @property
    def bootstrap(self) -> str:
        """Kafka's address."""
        return self.bed.bootstrap

    @property
    def seconds(self) -> float:
        """Since the demo began to watch."""
        return time.monotonic() - self.started

    @property
    def lost(self) -> int:
        """Applications without a decision."""
        return len(self.waiting)

    @property
    def repeated(self) -> int:
        """Decisions beyond the first of an application."""
        return sum(count - 1 for count in self.decided.values())

    @property
    def all_ready(self) -> bool:
        """Whether every binding is ready."""
        return bool(self.bindings) and all(binding.healthy for binding in self.bindings)

    @property
    def first(self) -> BindingView | None:
        """The binding that a burst meets first."""
        return next((b for b in self.bindings if b.topic == self.requests_topic), None)

    @property
    def taken_in(self) -> bool:
        """Whether the first binding has done all that was sent."""
        return self.first is not None and self.first.ready > 0 and self.first.lag == 0

    @property
    def asleep(self) -> bool:
        """Whether no worker is wanted or left."""
        return all(binding.wanted == binding.ready == 0 for binding in self.bindings)

    def say(self, text: str) -> None:
        """Add a line to the story."""
        self.log.append((self.seconds, text))

    def sent(self, ids: Iterable[str]) -> None:
        """Note applications that are about to be sent."""
        new = set(ids)
        self._known |= new
        self.waiting |= new
        self.total += len(new)
        if self.burst_at is None:
            self.burst_at = self.seconds

    async def until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for a condition.

        Raises:
            TestbedError: When it takes longer, with what `kubectl` says.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                table = self.bed.kubectl("get", "fb,pods", "-n", self.namespace, "-o", "wide")
                raise TestbedError(f"{what}: not after {seconds:.0f} s", hint=table)
            await asyncio.sleep(0.1)

    async def watch_bindings(self) -> None:
        """Ask kubectl twice a second."""
        command = ("get", "fb", "-n", self.namespace, "-o", "json")
        while True:
            text = await asyncio.to_thread(self.bed.kubectl, *command)
            views = [BindingView.of(item) for item in json.loads(text)["items"]]
            self.bindings = in_order(views, self.requests_topic)
            self._note_replicas()
            await asyncio.sleep(POLL_SECONDS)

    async def watch_decisions(self) -> None:
        """Read every decision; those of earlier runs are left aside."""
        async with kafkaio.reader(self.bootstrap, *self.decision_topics) as consumer:
            async for record in consumer:
                self._note_decision(record.topic, json.loads(record.value)["result"])

    def _note_decision(self, topic: str, decision: dict[str, Any]) -> None:
        application_id = decision["application_id"]
        if application_id not in self._known:
            return
        self.waiting.discard(application_id)
        self.decided[application_id] += 1
        if self.decided[application_id] == 1:
            decided = topic == self.decision_topics[0]
            self.verdicts[decision["decision"] if decided else "for review"] += 1

    def _note_replicas(self) -> None:
        for binding in self.bindings:
            self.peak[binding.name] = max(self.peak[binding.name], binding.ready)
        if self.burst_at is not None and self.first is not None:
            since = self.seconds - self.burst_at
            if self.first.wanted and self.wanted_after is None:
                self.wanted_after = since
            if self.first.wanted and self.first.ready == self.first.wanted and not self.full_after:
                self.full_after = since
        if self.total and not self.waiting and self.asleep and self.asleep_after is None:
            self.asleep_after = self.seconds
