"""What a fleet costs: cold start, idling, a burst, a soak."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from scale.figures import Growth, Scrape, growth, quantile
from scale.fleet import OWN, WANTED, Fleet, until, writes

SAMPLE_SECONDS = 5.0
QUIET_SECONDS = 10.0
"""Without a write, and with nobody waiting in the work queue, for so long, the fleet is at rest."""
TIMEOUT = 600.0


@dataclass(frozen=True)
class Phase:
    """What the operator did in a stretch of time.

    Attributes:
        cpu: Of one core, 0..1.
        rss: Resident bytes at its end.
        own_writes: Writes to Kubernetes as the operator counts them, a second.
        seen_writes: The same as the API server counts them.
        reconciles: A second.
        kafka: Requests to Kafka, a second.
        ticks: Median and 99th percentile of a look at Kafka, in seconds; upper bounds.
        late: 99th percentile of how late the event loop was; an upper bound.
    """

    name: str
    seconds: float
    cpu: float
    rss: float
    own_writes: float
    seen_writes: float
    reconciles: float
    kafka: float
    ticks: tuple[float | None, float | None]
    late: float | None


@dataclass
class Result:
    """All that was found out.

    Attributes:
        applied: Seconds from the operator's start to the last worker Deployment.
        ready: Seconds until every binding was Ready.
        taken_over: Seconds from the operator's end by SIGKILL until another had looked at the
            commits of every binding.
        repeated: Writes of that other one, while nothing had changed.
        burst_of: Bindings that a burst was for.
        scaled: Seconds from the burst's last message until the last of them had its number.
        rss_growth: Of resident bytes in the soak, a second.
        peak: The most resident bytes that were seen.
        unfinished: What was not so in time and ended the measurement; empty when nothing.
    """

    bindings: int
    topics: int
    applied: float = 0.0
    ready: float = 0.0
    taken_over: float = 0.0
    repeated: float = 0.0
    burst_of: int = 0
    scaled: float = 0.0
    soak_seconds: float = 0.0
    cycles: int = 0
    rss_growth: Growth | None = None
    peak: float = 0.0
    unfinished: str = ""
    phases: list[Phase] = field(default_factory=list)


@dataclass(frozen=True)
class Mark:
    """Both sides' counters at one time."""

    time: float
    operator: Scrape
    server: Scrape

    @classmethod
    async def now(cls, fleet: Fleet) -> Mark:
        """As they are."""
        operator, server = await asyncio.gather(fleet.operator(), fleet.server())
        return cls(time.monotonic(), operator, server)

    @property
    def rss(self) -> float:
        """Resident bytes of the operator."""
        return self.operator.sum("process_resident_memory_bytes")


def phase(name: str, before: Mark, after: Mark) -> Phase:
    """What happened between two marks."""
    seconds = after.time - before.time
    (own, seen), (own_before, seen_before) = (
        writes(mark.operator, mark.server) for mark in (after, before)
    )

    def each_second(metric: str) -> float:
        return (after.operator.sum(metric) - before.operator.sum(metric)) / seconds

    tick, late = f"{OWN}lag_poll_duration_seconds", f"{OWN}event_loop_lag_seconds"
    pair = (before.operator, after.operator)
    return Phase(
        name=name,
        seconds=seconds,
        cpu=each_second("process_cpu_seconds_total"),
        rss=after.rss,
        own_writes=(own - own_before) / seconds,
        seen_writes=(seen - seen_before) / seconds,
        reconciles=each_second(f"{OWN}reconcile_total"),
        kafka=each_second(f"{OWN}kafka_requests_total"),
        ticks=(quantile(*pair, tick, 0.5), quantile(*pair, tick, 0.99)),
        late=quantile(*pair, late, 0.99),
    )


Say = Callable[[str], None]


async def measure(fleet: Fleet, *, idle: float, soak: float, say: Say) -> Result:
    """Everything, one after the other.

    Args:
        fleet: Its bindings exist, and no operator runs.
        idle: Seconds of idling to measure.
        soak: Seconds of bursts to measure the growth of memory over; 0 for none.
        say: Told what is going on.
    """
    result = Result(len(fleet.bindings), len(fleet.topics))
    try:
        await _phases(fleet, result, idle, soak, say)
    except TimeoutError as error:
        # What was measured before it stands.
        result.unfinished = str(error)
    result.peak = max([result.peak, *(item.rss for item in result.phases)])
    return result


async def _phases(fleet: Fleet, result: Result, idle: float, soak: float, say: Say) -> None:
    tenth = fleet.topics[: max(1, len(fleet.topics) // 10)]
    started = await _cold_start(fleet, result, say)
    say("until the fleet is at rest")
    await at_rest(fleet)
    first = await Mark.now(fleet)
    result.phases.append(phase("cold start", started, first))
    say(f"idling for {idle:g} s")
    await asyncio.sleep(idle)
    result.phases.append(phase("idle", first, await Mark.now(fleet)))
    say("the operator is killed")
    second = await _take_over(fleet, result)
    result.burst_of = len(fleet.of_topics(tenth))
    say(f"a burst for {result.burst_of} bindings")
    result.scaled = await burst(fleet, tenth)
    result.phases.append(phase("burst", second, await Mark.now(fleet)))
    await asleep(fleet, tenth)
    if soak > 0:
        await _soak(fleet, tenth, soak, result, say)


async def _cold_start(fleet: Fleet, result: Result, say: Say) -> Mark:
    say("the operator starts")
    nothing = Mark(time.monotonic(), Scrape(), await fleet.server())
    await asyncio.to_thread(fleet.start_operator)
    count = len(fleet.bindings)

    async def applied() -> bool:
        return await fleet.deployments() == count

    await until(applied, f"{count} Deployments", TIMEOUT)
    result.applied = time.monotonic() - nothing.time
    # Each look is a list of all: of thousands, many looks would be what is measured.
    every = max(1.0, count / 500)
    await until(fleet.all_ready, "all bindings are Ready", TIMEOUT, every=every)
    result.ready = time.monotonic() - nothing.time
    return nothing


async def _take_over(fleet: Fleet, result: Result) -> Mark:
    killed = Mark(time.monotonic(), Scrape(), await fleet.server())
    await asyncio.to_thread(fleet.kill_operator)
    count = len(fleet.bindings)

    async def looked() -> bool:
        try:
            found = await fleet.operator()
        except (httpx.HTTPError, KeyError, ValueError):
            # The new one has no address yet, or does not answer there.
            return False
        return found.sum(f"{OWN}offset_fetches_total") >= count

    await until(looked, "another operator has looked at all bindings", TIMEOUT, every=1)
    result.taken_over = time.monotonic() - killed.time
    await at_rest(fleet)
    after = await Mark.now(fleet)
    result.phases.append(taken := phase("takeover", killed, after))
    result.repeated = taken.seen_writes * taken.seconds
    return after


async def at_rest(fleet: Fleet, *, quiet: float = QUIET_SECONDS) -> None:
    """Wait until the operator has written nothing, and has had nothing to do, for a while."""
    last, since = -1.0, time.monotonic()
    while time.monotonic() - since < quiet:
        found = await fleet.operator()
        count = found.sum(f"{OWN}kubernetes_writes_total")
        # A new leader writes nothing while thousands wait that it has not come to.
        if count != last or found.sum(f"{OWN}workqueue_depth") > 0:
            last, since = count, time.monotonic()
        await asyncio.sleep(1)


async def burst(fleet: Fleet, topics: list[str]) -> float:
    """Send one, and wait until all its bindings have their number. Returns how long that took."""
    names = fleet.of_topics(topics)
    await fleet.burst(topics)

    async def scaled() -> bool:
        wanted = await fleet.wanted(names)
        return all(wanted[name] == WANTED for name in names)

    return await until(scaled, "all have scaled", TIMEOUT)


async def asleep(fleet: Fleet, topics: list[str]) -> None:
    """Have the messages of some topics done, and wait until their bindings have no workers."""
    names = fleet.of_topics(topics)
    await fleet.drain(topics)

    async def none() -> bool:
        return not any((await fleet.wanted(names)).values())

    await until(none, "all sleep", TIMEOUT, every=1)


async def _soak(fleet: Fleet, topics: list[str], seconds: float, result: Result, say: Say) -> None:
    """Bursts, one after the other, while the operator's memory is watched."""
    say(f"bursts for {seconds:g} s")
    before = await Mark.now(fleet)
    samples: list[tuple[float, float]] = []
    watching = asyncio.create_task(_sample(fleet, samples))
    try:
        while time.monotonic() - before.time < seconds:
            await burst(fleet, topics)
            await asleep(fleet, topics)
            result.cycles += 1
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    after = await Mark.now(fleet)
    result.soak_seconds = after.time - before.time
    # The first quarter still fills caches and pools.
    late = [pair for pair in samples if pair[0] - before.time > result.soak_seconds / 4]
    result.rss_growth = growth(late)
    result.peak = max((rss for _, rss in samples), default=0.0)
    result.phases.append(phase("soak", before, after))


async def _sample(fleet: Fleet, samples: list[tuple[float, float]]) -> None:
    while True:
        rss = (await fleet.operator()).sum("process_resident_memory_bytes")
        samples.append((time.monotonic(), rss))
        await asyncio.sleep(SAMPLE_SECONDS)
