"""Watches the lag of all bindings: one loop for each Kafka cluster and set of credentials.

Loops share nothing, so a cluster that is down delays nobody but its own bindings. A tick costs one
request for each broker (end offsets of all topics), plus one OffsetFetch for each binding that has
workers or whose topics have new messages. A sleeping binding costs nothing of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import EARLIEST, LATEST, ClusterError, KafkaLink, Layout, MovedError
from flowbinding_operator.lag import (
    Commit,
    FigureBook,
    Observation,
    Partition,
    Target,
    Trouble,
    done_of,
    lag_of,
    seeds,
)
from flowbinding_operator.metrics import Metrics

log = structlog.get_logger(__name__)

TICK_SECONDS = 12.0
"""A tick that takes longer has failed. Two requests that time out fit in."""
LAYOUT_SECONDS = 30.0
"""How soon new partitions and moved leaders are seen."""
TROUBLE_SECONDS = 5.0
"""How soon a topic that was missing is seen."""
STARTS_SECONDS = 30.0
"""How soon messages that retention has deleted stop counting."""
SLEEPING_FETCH_SECONDS = 300.0
"""How often the commits of a binding are read that has no workers and no lag."""
WAITING_FETCH_SECONDS = 30.0
"""The same with lag: a long run that outlived its Deployment's scale-down may still commit."""
DRAIN_SECONDS = 120.0
"""For so long after the last worker counts as gone, drained runs are still expected to commit."""
SILENCE_SECONDS = 8.0
"""How long leaders and coordinators may be away, as they are while brokers restart."""
PARALLEL = 64
"""OffsetFetch requests at the same time."""
MAX_BACKOFF = 10.0


class Link(Protocol):
    """The requests of `KafkaLink`."""

    async def close(self) -> None: ...  # noqa: D102
    async def layout(self, topics: Iterable[str]) -> Layout: ...  # noqa: D102
    async def offsets(  # noqa: D102
        self, layout: Layout, partitions: Iterable[Partition], which: int
    ) -> dict[Partition, int]: ...
    async def committed(self, group: str) -> dict[Partition, Commit]: ...  # noqa: D102
    async def is_empty(self, group: str) -> bool: ...  # noqa: D102
    async def commit(self, group: str, commits: Mapping[Partition, Commit]) -> None: ...  # noqa: D102


Report = Callable[[str, Observation], None]
"""Told of every observation, with the binding's key."""


@dataclass(slots=True)
class Watched:
    """A target, and what is known of its group."""

    target: Target
    commits: dict[Partition, Commit] = field(default_factory=dict)
    figures: FigureBook = field(default_factory=FigureBook)
    fetched_at: float = float("-inf")
    fetched_end: int | None = None
    lag: int | None = None
    worked_at: float = float("-inf")
    silent_since: float | None = None

    def needs_fetch(self, end: int, now: float) -> bool:
        """Whether the commits may have changed."""
        if self.target.workers > 0:
            self.worked_at = now
        if now - self.worked_at <= DRAIN_SECONDS or end != self.fetched_end:
            return True
        wait = SLEEPING_FETCH_SECONDS if self.lag == 0 else WAITING_FETCH_SECONDS
        return now - self.fetched_at >= wait

    def silence(self, trouble: Trouble, now: float) -> Trouble | None:
        """`trouble`, once it has lasted; nothing while it may be brokers that restart."""
        if self.silent_since is None:
            self.silent_since = now
        return trouble if now - self.silent_since >= SILENCE_SECONDS else None


class ClusterPoller:
    """The loop of one cluster."""

    def __init__(
        self,
        link: Link,
        report: Report,
        metrics: Metrics,
        *,
        seconds: float,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.watched: dict[str, Watched] = {}
        self.last_tick = clock()
        """When the last tick ended, well or not: liveness looks at it."""
        self.last_success: float | None = None
        self._link = link
        self._report = report
        self._metrics = metrics
        self._seconds = seconds
        self._clock = clock
        self._wall = wall
        self._layout = Layout()
        self._layout_at = self._starts_at = float("-inf")
        self._topics: frozenset[str] = frozenset()
        self._starts: dict[Partition, int] = {}
        self._failures = 0
        self._wake = asyncio.Event()

    def watch(self, target: Target) -> None:
        """Watch a target, or change what is known of it."""
        known = self.watched.get(target.key)
        same_group = known is not None and known.target.group == target.group
        if known is not None and same_group and known.target.topics == target.topics:
            known.target = target
            return
        # A tick that still looks at the old target has nothing to say any more, see `_tell`.
        self.watched[target.key] = Watched(target)
        if known is not None and same_group:
            # These are the group's, whatever its topics: `seeds` makes them again if Kafka forgets.
            self.watched[target.key].commits = known.commits
            self.watched[target.key].worked_at = known.worked_at
        self._wake.set()

    async def run(self) -> None:
        """Tick until cancelled."""
        try:
            while True:
                self._wake.clear()
                began = self._clock()
                await self._try_tick()
                self.last_tick = self._clock()
                wait = self._backoff() or self._seconds - (self.last_tick - began)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.05, wait)):
                        await self._wake.wait()
        finally:
            await self._link.close()

    async def tick(self) -> None:
        """Look at everything once.

        Raises:
            ClusterError: When the cluster cannot be asked.
        """
        now = self._clock()
        # Not those that are added meanwhile: their topics are not asked for yet.
        watched = list(self.watched.values())
        await self._refresh_layout(watched, now)
        ends = await self._link.offsets(self._layout, self._layout.leaders, LATEST)
        if set(ends) != set(self._layout.leaders):
            # A leader has moved or died: ask who leads now, next time.
            self._layout_at = float("-inf")
        await self._refresh_starts(now)
        limit = asyncio.Semaphore(PARALLEL)
        await asyncio.gather(*(self._look(one, ends, now, limit) for one in watched))
        self.last_success = self._clock()
        self._metrics.polls.inc()

    async def _try_tick(self) -> None:
        if not self.watched:
            return
        try:
            async with asyncio.timeout(TICK_SECONDS):
                await self.tick()
        except TimeoutError:
            self._failed(Trouble(Reason.KAFKA_UNREACHABLE, "Kafka did not answer in time"))
        except ClusterError as error:
            self._failed(error.trouble)
        except Exception as error:
            # Whatever one cluster's answers or names lead to must not end the others' loops.
            log.exception("a look at Kafka failed")
            self._failed(Trouble(Reason.KAFKA_UNREACHABLE, repr(error)))
        else:
            self._failures = 0

    def _failed(self, trouble: Trouble) -> None:
        self._failures += 1
        self._layout_at = float("-inf")
        # One failure of a cluster that has answered may be a leader election: the lag is unknown,
        # which stops all scaling, but nobody is alarmed yet.
        alarming = self._failures > 1 or self.last_success is None
        if self._failures <= 2:
            log.warning("Kafka cannot be asked", reason=trouble.reason, error=trouble.message)
        now = self._clock()
        for key in list(self.watched):
            self._report(key, Observation(now, trouble=trouble if alarming else None))

    def _tell(self, watched: Watched, observation: Observation) -> None:
        """Report, unless the binding has gone or changed its target since the tick began."""
        if self.watched.get(watched.target.key) is watched:
            self._report(watched.target.key, observation)

    def _backoff(self) -> float:
        return min(MAX_BACKOFF, 2.0 ** (self._failures - 1)) if self._failures else 0.0

    async def _refresh_layout(self, watched: Iterable[Watched], now: float) -> None:
        topics = frozenset(topic for one in watched for topic in one.target.topics)
        age = now - self._layout_at
        due = age >= LAYOUT_SECONDS or (self._layout.troubles and age >= TROUBLE_SECONDS)
        if due or topics != self._topics:
            self._layout = await self._link.layout(topics)
            self._layout_at, self._topics = now, topics

    async def _refresh_starts(self, now: float) -> None:
        unknown = self._layout.leaders.keys() - self._starts.keys()
        if unknown or now - self._starts_at >= STARTS_SECONDS:
            self._starts = await self._link.offsets(self._layout, self._layout.leaders, EARLIEST)
            self._starts_at = now

    async def _look(
        self, watched: Watched, ends: dict[Partition, int], now: float, limit: asyncio.Semaphore
    ) -> None:
        target = watched.target
        trouble = next(
            (self._layout.troubles[t] for t in target.topics if t in self._layout.troubles), None
        )
        partitions = self._layout.partitions(target.topics)
        known = [ends[partition] for partition in partitions if partition in ends]
        if trouble is None and len(known) < len(partitions):
            message = f"no leader answers for {len(partitions) - len(known)} partitions"
            trouble = watched.silence(Trouble(Reason.KAFKA_UNREACHABLE, message), now)
        if trouble is not None or not partitions or len(known) < len(partitions):
            self._tell(watched, Observation(now, trouble=trouble))
            return
        end = sum(known)
        try:
            if watched.needs_fetch(end, now):
                async with limit:
                    await self._fetch(watched, partitions, ends)
                watched.fetched_at, watched.fetched_end = now, end
        except MovedError as error:
            trouble = watched.silence(error.trouble, now)
            self._tell(watched, Observation(now, trouble=trouble))
            return
        except ClusterError as error:
            self._tell(watched, Observation(now, trouble=error.trouble))
            return
        watched.silent_since = None
        observation = self._observation(watched, partitions, ends, end, now)
        watched.lag = observation.lag
        self._tell(watched, observation)

    async def _fetch(
        self, watched: Watched, partitions: list[Partition], ends: dict[Partition, int]
    ) -> None:
        target = watched.target
        self._metrics.fetches.inc()
        commits = await self._link.committed(target.group)
        missing = seeds(target, partitions, ends, self._starts, commits, watched.commits)
        # Only a group without members takes commits from outside; members seed by themselves.
        if missing and await self._link.is_empty(target.group):
            await self._link.commit(target.group, missing)
            commits |= missing
            log.info("group starts", binding=target.key, partitions=len(missing))
        watched.commits = commits
        broken = watched.figures.update(
            {partition: commits[partition] for partition in partitions if partition in commits}
        )
        self._metrics.broken_metadata.inc(broken)

    def _observation(
        self,
        watched: Watched,
        partitions: list[Partition],
        ends: dict[Partition, int],
        end: int,
        now: float,
    ) -> Observation:
        by_topic = {
            topic: lag_of(
                ends, self._starts, watched.commits, [p for p in partitions if p.topic == topic]
            )
            for topic in watched.target.topics
        }
        lags = [lag for lag in by_topic.values() if lag is not None]
        complete = len(lags) == len(by_topic)
        return Observation(
            time=now,
            lag=sum(lags) if complete else None,
            end=end,
            partitions=len(partitions),
            by_topic={topic: lag for topic, lag in by_topic.items() if lag is not None},
            summary=watched.figures.summary(watched.target.workers),
            unix=self._wall(),
            ends=tuple(ends[partition] for partition in partitions),
            done=done_of(self._starts, watched.commits, watched.figures.ahead, partitions),
            ready=watched.target.ready,
        )


class LagWatcher:
    """All loops: each starts with its first binding and ends with its last.

    Args:
        report: Told of every observation.
        metrics: Where requests are counted.
        seconds: Between two ticks.
        failed: Told when a loop ends by an error, which it never should.
    """

    def __init__(
        self,
        report: Report,
        metrics: Metrics,
        *,
        seconds: float = 2.0,
        failed: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[[Mapping[str, Any]], Link] = KafkaLink,
    ) -> None:
        self._report = report
        self._metrics = metrics
        self._seconds = seconds
        self._failed = failed
        self._clock = clock
        self._connect = connect
        self._pollers: dict[str, ClusterPoller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cluster_of: dict[str, str] = {}

    @property
    def pollers(self) -> Mapping[str, ClusterPoller]:
        """The loops, by cluster."""
        return self._pollers

    def watch(self, target: Target, cluster: str, options: Mapping[str, Any]) -> None:
        """Watch a binding, or change how.

        Args:
            target: What to watch.
            cluster: Identifies the cluster and the credentials.
            options: For the client, used if this is the first binding of `cluster`.
        """
        if self._cluster_of.get(target.key) != cluster:
            self.forget(target.key)
            self._cluster_of[target.key] = cluster
        poller = self._pollers.get(cluster)
        if poller is None:
            link = self._connect(options)
            poller = ClusterPoller(
                link, self._report, self._metrics, seconds=self._seconds, clock=self._clock
            )
            self._pollers[cluster] = poller
            task = asyncio.create_task(poller.run(), name=f"lag {cluster}")
            task.add_done_callback(self._ended)
            self._tasks[cluster] = task
        poller.watch(target)

    def forget(self, key: str) -> None:
        """Stop watching a binding."""
        cluster = self._cluster_of.pop(key, None)
        if cluster is None:
            return
        poller = self._pollers[cluster]
        poller.watched.pop(key, None)
        if not poller.watched:
            del self._pollers[cluster]
            self._tasks.pop(cluster).cancel()

    async def close(self) -> None:
        """End all loops."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
