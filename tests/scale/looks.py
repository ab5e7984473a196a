"""`make bench-looks`: what a look at many active groups costs, on a broker of its own."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import kafkaio
from flowbinding_api.binding import parse_binding
from flowbinding_api.offsets import Figures, Progress, encode
from flowbinding_operator.autoscaler import Autoscaler
from flowbinding_operator.kafka import KafkaLink
from flowbinding_operator.lag import Commit, Observation, Partition, Target
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.poller import ClusterPoller
from flowbinding_operator.scaling import History
from manifests import manifest
from testbed import KafkaBroker

PARTITIONS = 6
PER_TOPIC = 10
TOGETHER = 64
BEAT_SECONDS = 0.002


class Looks:
    """A poller of many groups with a worker each, as the operator has it.

    Args:
        bootstrap: The broker.
        groups: How many.
        sleeping: How many more have neither workers nor messages to come.
    """

    def __init__(self, bootstrap: str, groups: int, sleeping: int = 0) -> None:
        self.asked: Counter[str] = Counter()
        self._bootstrap = bootstrap
        self.link = KafkaLink({"bootstrap_servers": bootstrap}, asked=self._count)
        self.targets = [
            Target(f"looks/b{n}", f"looks.b{n}", (f"looks-{n // PER_TOPIC}",), workers=1, ready=1)
            for n in range(groups)
        ]
        self.sleeping = [
            Target(f"looks/s{n}", f"looks.s{n}", (f"sleeping-{n // PER_TOPIC}",))
            for n in range(sleeping)
        ]
        self._metrics = Metrics()
        self._autoscaler = Autoscaler(lambda *_: None)
        for target in (*self.targets, *self.sleeping):
            spec = parse_binding(manifest(source={"topic": target.topics[0]})).spec
            self._autoscaler.track(target.key, spec, partial(History, replicas=target.workers))
        self.lags: dict[str, int | None] = {}
        self.poller = ClusterPoller(
            self.link, self._observed, self._metrics, seconds=2, clock=time.monotonic
        )
        self._round = 0

    async def begin(self, messages: int) -> None:
        """Make topics and messages, and look until all lags are known."""
        bootstrap = self._bootstrap
        for targets in (self.targets, self.sleeping):
            topics = sorted({target.topics[0] for target in targets})
            for start in range(0, len(topics), TOGETHER):
                some = topics[start : start + TOGETHER]
                await kafkaio.create_topics(bootstrap, *some, partitions=PARTITIONS)
        for topic in {target.topics[0] for target in self.targets}:
            values = ((b"%d" % n, b"{}") for n in range(messages))
            await kafkaio.produce(bootstrap, topic, values)
        for target in (*self.targets, *self.sleeping):
            self.poller.watch(target)
        while len(self.lags) < len(self.poller.watched) or None in self.lags.values():
            # A new broker makes its offsets topic first.
            await self.poller.tick()
            await asyncio.sleep(0.2)

    async def work(self) -> None:
        """Every group commits one message more of each partition, as workers do."""
        self._round += 1
        limit = asyncio.Semaphore(TOGETHER)

        async def one(number: int, target: Target) -> None:
            figures = Figures(number, 10, busy=0.5, seconds_per_message=0.25)
            text = encode(self._round, Progress(self._round + 1), figures)
            commits = {
                Partition(target.topics[0], p): Commit(self._round, text) for p in range(PARTITIONS)
            }
            async with limit:
                await self.link.commit(target.group, commits)

        await asyncio.gather(*(one(*item) for item in enumerate(self.targets)))

    async def look(self) -> tuple[float, float, float, Counter[str]]:
        """One look: seconds, seconds of this process's time, longest standstill, requests."""
        self.asked.clear()
        late = 0.0

        async def beat() -> None:
            nonlocal late
            while True:
                before = time.perf_counter()
                await asyncio.sleep(BEAT_SECONDS)
                late = max(late, time.perf_counter() - before - BEAT_SECONDS)

        beating = asyncio.create_task(beat())
        began, spent = time.perf_counter(), time.process_time()
        await self.poller.tick()
        took, cpu = time.perf_counter() - began, time.process_time() - spent
        beating.cancel()
        return took, cpu, late, self.asked.copy()

    def _observed(self, key: str, observation: Observation) -> None:
        self._metrics.observed(key, observation, time.time())
        self._autoscaler.observe(key, observation)
        self.lags[key] = observation.lag

    def _count(self, api: str) -> None:
        self.asked[api] += 1


def main(
    groups: Annotated[int, typer.Option(min=1, help="Groups with a worker each.")] = 500,
    sleeping: Annotated[int, typer.Option(min=0, help="Groups more that sleep.")] = 0,
    looks: Annotated[int, typer.Option(min=1, help="How many looks.")] = 10,
) -> None:
    """Measure."""
    with (
        tempfile.TemporaryDirectory(prefix="flowbinding-looks-") as folder,
        KafkaBroker(Path(folder)) as broker,
    ):
        asyncio.run(_measure(broker.bootstrap, groups, sleeping, looks))


async def _measure(bootstrap: str, groups: int, sleeping: int, count: int) -> None:
    bench = Looks(bootstrap, groups, sleeping)
    began = time.perf_counter()
    # More than are committed in any partition.
    await bench.begin(2 * PARTITIONS * (count + 2))
    typer.echo(f"begun after {time.perf_counter() - began:.1f} s")
    results = []
    for _ in range(count):
        await bench.work()
        results.append(await bench.look())
    seconds = [took for took, *_ in results]
    await bench.link.close()
    typer.echo(
        f"{groups} active groups, {sleeping} asleep, {count} looks:"
        f" median {1000 * statistics.median(seconds):.0f} ms,"
        f" longest {1000 * max(seconds):.0f} ms;"
        f" {1000 * statistics.median(cpu for _, cpu, *_ in results):.0f} ms of CPU;"
        f" longest standstill of the loop {1000 * max(late for *_, late, _ in results):.0f} ms;"
        f" requests {dict(results[-1][-1])}"
    )


if __name__ == "__main__":
    typer.run(main)
