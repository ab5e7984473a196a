"""Watches the lag of all bindings: one loop for each Kafka cluster and set of credentials.

Loops share nothing, so a cluster that is down delays nobody but its own bindings. A tick costs one
request for each broker (end offsets of all topics), plus one for each coordinator and some 200
bindings that have workers or whose topics have new messages (OffsetFetch). A sleeping binding costs
nothing of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import structlog

from flowbinding_api.reasons import Reason
from flowbinding_operator.fetcher import Fetcher, GroupLink, Looked
from flowbinding_operator.kafka import EARLIEST, LATEST, ClusterError, KafkaLink, Layout
from flowbinding_operator.lag import Observation, Partition, Target, Trouble
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.watched import Look, Watched, next_sleeper

log = structlog.get_logger(__name__)

TICK_SECONDS = 12.0
"""A tick that takes longer has failed. Two requests that time out fit in."""
LAYOUT_SECONDS = 30.0
"""How soon new partitions and moved leaders are seen."""
TROUBLE_SECONDS = 5.0
"""How soon a topic that was missing is seen."""
STARTS_SECONDS = 30.0
"""How soon messages that retention has deleted stop counting."""
SLEEPER_SECONDS = 4.0
"""Of all sleeping bindings of a cluster together, one has its commits read in so many seconds: a
thousand that are read every five minutes would be three requests a second for nothing."""
BATCH = 250
"""Bindings that are looked at without letting anything else run."""
MAX_BACKOFF = 5.0
"""How long a cluster that is away, or not there yet, is left alone at most."""
HURRY_SECONDS = 0.5
"""How soon the next look is while brokers may be restarting, or a new one makes its topic of
commits: that is over in a moment, and until then some lags are not known."""
REST = 4.0
"""A look is followed by a rest of so many times its length, whoever is new meanwhile: of thousands
that begin one after the other, each would have all others looked at once more."""


class Link(GroupLink, Protocol):
    """The requests of `KafkaLink`."""

    async def close(self) -> None: ...  # noqa: D102
    async def layout(self, topics: Iterable[str]) -> Layout: ...  # noqa: D102


Report = Callable[[str, Observation], None]
"""Told of every observation, with the binding's key."""


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
        name: str = "",
    ) -> None:
        self.watched: dict[str, Watched] = {}
        self.last_tick = clock()
        """When the last tick ended, well or not: liveness looks at it."""
        self.last_success: float | None = None
        self._link = link
        self._fetcher = Fetcher(link, metrics, self._conclude, self._tell)
        self._report = report
        self._metrics = metrics
        self._seconds = seconds
        self._clock = clock
        self._wall = wall
        self.name = name
        self._layout = Layout()
        self._layout_at = self._starts_at = float("-inf")
        self._topics: set[str] = set()
        self._starts: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._anew: set[str] = set()
        self._slept_at = float("-inf")
        self._failures = 0
        self._hurry = False
        self._wake = asyncio.Event()

    def watch(self, target: Target) -> None:
        """Watch a target, or change what is known of it."""
        known = self.watched.get(target.key)
        same_group = known is not None and known.target.group == target.group
        if known is not None and same_group and known.target.topics == target.topics:
            if known.target.written != target.written:
                self._wake.set()
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
                self._hurry = False
                began = self._clock()
                await self._try_tick()
                self.last_tick = self._clock()
                took = self.last_tick - began
                seconds = min(self._seconds, HURRY_SECONDS) if self._hurry else self._seconds
                wait = max(0.05, self._backoff() or seconds - took)
                rest = min(wait, REST * took)
                await asyncio.sleep(rest)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait - rest):
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
        await self._refresh_starts(ends, now)
        if now - self._slept_at >= SLEEPER_SECONDS:
            self._slept_at = now
            next_sleeper(watched, now)
        fetches = []
        for count, one in enumerate(watched, 1):
            if look := self._look(one, ends, now):
                fetches.append(Looked(one, look))
            if count % BATCH == 0:
                # Thousands in one go would keep everything else waiting.
                await asyncio.sleep(0)
        await self._fetcher.fetch(fetches, self._layout)
        self.last_success = self._clock()
        self._metrics.polls.labels(self.name).inc()

    async def _try_tick(self) -> None:
        if not self.watched:
            return
        try:
            async with asyncio.timeout(TICK_SECONDS):
                with self._metrics.poll_seconds.labels(self.name).time():
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
        self._metrics.poll_failures.labels(self.name).inc()
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
            self._hurry |= observation.blank and watched.silent_since is not None
            self._report(watched.target.key, observation)

    def _backoff(self) -> float:
        return min(MAX_BACKOFF, 2.0 ** (self._failures - 1)) if self._failures else 0.0

    async def _refresh_layout(self, watched: Iterable[Watched], now: float) -> None:
        read = {topic for one in watched for topic in one.target.topics}
        topics = read.union(*(one.target.written for one in watched))
        age = now - self._layout_at
        due = age >= LAYOUT_SECONDS or (self._layout.troubles and age >= TROUBLE_SECONDS)
        if due or topics != self._topics:
            layout = await self._link.layout(topics)
            # Nobody asks for the offsets of what is only written.
            leaders = {p: node for p, node in layout.leaders.items() if p.topic in read}
            self._layout = Layout(leaders, layout.troubles)
            self._layout_at, self._topics = now, topics
            # Should a topic that is gone come again, it is another one.
            self._starts = {p: s for p, s in self._starts.items() if p in leaders}

    async def _refresh_starts(self, ends: dict[Partition, int], now: float) -> None:
        self._anew = {p.topic for p, end in ends.items() if end < self._ends.get(p, end)}
        self._ends = ends
        unknown = self._layout.leaders.keys() - self._starts.keys()
        if unknown or self._anew or now - self._starts_at >= STARTS_SECONDS:
            self._starts = await self._link.offsets(self._layout, self._layout.leaders, EARLIEST)
            self._starts_at = now

    def _look(self, watched: Watched, ends: dict[Partition, int], now: float) -> Look | None:
        """Look at a binding. Returns what was seen if its commits are still to be asked for."""
        topics, troubles = watched.target.topics, self._layout.troubles
        trouble = next((troubles[topic] for topic in topics if topic in troubles), None)
        gone = (t for t in topics if t in self._anew or _is_missing(troubles.get(t)))
        watched.topics_gone(gone)
        look = Look(now, self._layout.partitions(topics), ends, self._starts)
        if trouble is None and look.unknown:
            message = f"no leader answers for {look.unknown} partitions"
            trouble = watched.silence(Trouble(Reason.KAFKA_UNREACHABLE, message), now)
        if trouble is not None or not look.partitions or look.unknown:
            self._tell(watched, Observation(now, trouble=trouble))
            return None
        watched.compare(ends, now)
        if watched.needs_fetch(look.end, now):
            return look
        self._conclude(watched, look)
        return None

    def _conclude(self, watched: Watched, look: Look) -> None:
        output = self._output_trouble(watched.target)
        self._tell(watched, watched.observation(look, output, self._wall()))

    def _output_trouble(self, target: Target) -> Trouble | None:
        troubles = (self._layout.troubles.get(topic) for topic in target.written)
        # What a broker says of a topic while it restarts is none of these.
        wanted = (Reason.TOPIC_MISSING, Reason.TOPIC_UNAUTHORIZED)
        return next((t for t in troubles if t is not None and t.reason in wanted), None)


def _is_missing(trouble: Trouble | None) -> bool:
    return trouble is not None and trouble.reason is Reason.TOPIC_MISSING


def _name(options: Mapping[str, Any]) -> str:
    """What people call a cluster."""
    return str(options.get("bootstrap_servers", ""))


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
        connect: Callable[[Mapping[str, Any]], Link] | None = None,
    ) -> None:
        self._report = report
        self._metrics = metrics
        self._seconds = seconds
        self._failed = failed
        self._clock = clock
        self._connect = connect or self._kafka
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
                link,
                self._report,
                self._metrics,
                seconds=self._seconds,
                clock=self._clock,
                name=_name(options),
            )
            self._pollers[cluster] = poller
            task = asyncio.create_task(poller.run(), name=f"lag {cluster}")
            task.add_done_callback(partial(self._ended, poller.name))
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
        for key in list(self._cluster_of):
            self.forget(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _kafka(self, options: Mapping[str, Any]) -> Link:
        requests, name = self._metrics.kafka_requests, _name(options)
        return KafkaLink(options, asked=lambda api: requests.labels(name, api).inc())

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if all(poller.name != name for poller in self._pollers.values()):
            self._metrics.forget_cluster(name)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
