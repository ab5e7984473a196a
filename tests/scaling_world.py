"""A binding under the scaling policy, fed by hand."""

from __future__ import annotations

from typing import Any

from flowbinding_api.binding import parse_binding
from flowbinding_api.spec import FlowBindingSpec
from flowbinding_operator.scaling import Decision, History, Sample, decide
from operator_fakes import manifest

TICK = 2.0


def spec_of(
    scaling: dict[str, Any] | None = None,
    concurrency: dict[str, Any] | None = None,
    **more: Any,
) -> FlowBindingSpec:
    parts = {"scaling": scaling or {}, "concurrency": concurrency or {}, **more}
    return parse_binding(manifest(**parts)).spec


class World:
    """Feeds samples one tick after the other and lets the decision take effect."""

    def __init__(self, spec: FlowBindingSpec, partitions: int = 24, replicas: int = 0) -> None:
        self.spec, self.partitions = spec, partitions
        self.history = History(replicas=replicas)
        self.now = 1000.0
        self.end = 0

    def tick(self, lag: int | None, arrived: int = 0, **sample: Any) -> Decision:
        """One look at a total lag."""
        self.now += TICK
        self.end += arrived
        known = lag is not None
        return self._decide(
            Sample(
                self.now,
                lag,
                self.end if known else None,
                self.partitions if known else None,
                **sample,
            )
        )

    def run(self, seconds: float, lag: int | None, arrived: int = 0, **sample: Any) -> Decision:
        decision = self.tick(lag, arrived, **sample)
        for _ in range(int(seconds / TICK) - 1):
            decision = self.tick(lag, arrived, **sample)
        return decision

    def _decide(self, sample: Sample) -> Decision:
        self.history.observe(sample)
        decision = decide(self.history, self.spec)
        self.history.remember(decision, self.spec.scaling.behavior)
        self.history.replicas = decision.replicas
        return decision


class Topic(World):
    """The same with every partition, and workers that do what they can."""

    def __init__(self, spec: FlowBindingSpec, partitions: int = 24, replicas: int = 0) -> None:
        super().__init__(spec, partitions, replicas)
        self.ends = [0] * partitions
        self.done = [0.0] * partitions
        self.seconds = spec.scaling.expected_seconds_per_message
        self.trouble = ""

    def look(
        self,
        arriving: float | list[float] = 0.0,
        *,
        stuck: frozenset[int] = frozenset(),
        capacity: float | None = None,
    ) -> Decision:
        """One tick: messages a second of each partition come, workers work, and then a look.

        Args:
            arriving: Messages a second, for each partition or for every one.
            stuck: Partitions of which nothing gets done.
            capacity: Messages a second that the backend can do; runs take longer beyond that.
        """
        rates = arriving if isinstance(arriving, list) else [arriving] * self.partitions
        workers = self.history.replicas or 0
        self._arrive(rates)
        seconds = self.seconds
        able = self.spec.concurrency.per_replica / seconds
        if capacity is not None and workers * able > capacity:
            seconds *= workers * able / capacity
            able = capacity / workers
        for worker in range(workers):
            self._work([p for p in range(worker, self.partitions, workers) if p not in stuck], able)
        ends, done = tuple(self.ends), tuple(int(value) for value in self.done)
        self.now += TICK
        lag = sum(ends) - sum(done)
        measured = seconds if workers else None
        return self._decide(
            Sample(
                self.now,
                lag,
                sum(ends),
                self.partitions,
                measured,
                ends=ends,
                done=done,
                workers=workers,
                slots=float(self.spec.concurrency.per_replica) if workers else None,
                trouble=self.trouble if workers else "",
            )
        )

    def watch(self, seconds: float, *arguments: Any, **more: Any) -> list[Decision]:
        return [self.look(*arguments, **more) for _ in range(int(seconds / TICK))]

    def burst(self, count: int, partitions: range | None = None) -> None:
        for index in partitions or range(self.partitions):
            self.ends[index] += count

    def _arrive(self, rates: list[float]) -> None:
        ticks = round((self.now - 1000) / TICK)
        for index, rate in enumerate(rates):
            # Spread over the partitions, so that they do not all fill at one moment.
            phase = index * 0.618 % 1
            before = int(ticks * TICK * rate + phase)
            self.ends[index] += int((ticks + 1) * TICK * rate + phase) - before

    def _work(self, mine: list[int], able: float) -> None:
        left = able * TICK
        waiting = [p for p in mine if self.done[p] < self.ends[p]]
        while left > 1e-9 and waiting:
            share = left / len(waiting)
            for index in waiting:
                part = min(share, self.ends[index] - self.done[index])
                self.done[index] += part
                left -= part
            waiting = [p for p in waiting if self.done[p] < self.ends[p] - 1e-9]
