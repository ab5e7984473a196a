"""What happens to running messages when partitions come and go.

This is the policy, and the only place that knows it: runs in flight go on, whoever gets their
partition is told about them through registers (see `handover`), and the group waits for none. Only
what cannot be told, because Kafka does not take it, is waited for, up to a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping

import structlog

from flowbinding_api.offsets import MetadataError, Progress, decode
from flowbinding_worker.committer import Committer
from flowbinding_worker.handover.entry import Item, State, fingerprint
from flowbinding_worker.handover.listening import Listening
from flowbinding_worker.handover.outgoing import Outgoing
from flowbinding_worker.handover.registers import Registers
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import ConsumerPort, KafkaUnavailableError, Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.waiting import within
from flowbinding_worker.work import Work

log = structlog.get_logger(__name__)

LOAD_SECONDS = 10.0
MAX_DRAIN_SECONDS = 300.0
WRITE_SECONDS = 5.0
TELL_SECONDS = 0.1
"""How often to tell others what has become of messages that were handed over."""
AGAIN_SECONDS = 0.5
"""How often to try again to hand over."""


def drain_seconds(timeout_seconds: float) -> float:
    """How long a rebalance waits for runs that may last `timeout_seconds`, and be written then."""
    return min(timeout_seconds + WRITE_SECONDS, MAX_DRAIN_SECONDS)


class Handover:
    """Hands running messages over when partitions go; implements `kafka_port.Rebalances`.

    Args:
        work: What runs.
        committer: Commits before they go.
        consumer: Knows what is committed.
        registers: Where to say what runs, and to read it; None: runs are always waited for.
        seconds: How long to wait at most for what cannot be handed over.
        cut: Ends that wait, for a shutdown that is in a hurry.
        metrics: Counts.
    """

    def __init__(
        self,
        work: Work,
        committer: Committer,
        consumer: ConsumerPort,
        registers: Registers | None,
        seconds: float,
        cut: asyncio.Event,
        metrics: Metrics,
    ) -> None:
        self._work = work
        self._committer = committer
        self._consumer = consumer
        self._registers = registers
        self._seconds = seconds
        self._cut = cut
        self._metrics = metrics
        self._generation = -1
        self._leaving = False
        self._handed: list[Tracker] = []
        self._speak = asyncio.Event()
        self._listening = Listening(work, registers)
        self._lock = asyncio.Lock()
        self.joined = asyncio.Event()
        """Set once the worker has been given partitions, or none, for the first time."""

    async def run(self) -> None:
        """Tell others what becomes of what they were told, and listen to them, until cancelled."""
        await asyncio.gather(self._tell(), self._listening.run())

    async def revoked(
        self, partitions: Collection[Partition], *, lost: bool, generation: int
    ) -> None:
        """Hand over what runs; see `kafka_port.Rebalances`."""
        if not partitions:
            return
        async with self._lock:
            self._metrics.rebalances.inc()
            if lost:
                cancelled = await self._work.runs.cancel(self._work.retire(partitions))
                log.warning("partitions lost", partitions=_names(partitions), cancelled=cancelled)
                return
            self._generation = generation
            started = time.monotonic()
            late = await self._hand_over(partitions, self._seconds)
            cancelled = await self._give_up(late) if late else 0
            self._work.suspend(partitions)
            seconds = time.monotonic() - started
            self._metrics.drain_seconds.observe(seconds)
            log.info(
                "partitions revoked",
                partitions=_names(partitions),
                handed_over=len(self._work.runs.unsettled(self._handed)),
                seconds=round(seconds, 3),
                cancelled=cancelled,
            )

    async def assigned(self, partitions: Collection[Partition], *, generation: int) -> None:
        """Go on with what came back, begin with what is new; see `kafka_port.Rebalances`."""
        async with self._lock:
            if self._leaving:
                return
            kept = self._take_back(partitions, generation)
            new = [p for p in partitions if p not in kept]
            known, incoming = await asyncio.gather(self._committed(new), self._listening.said(new))
            trackers = {p: self._tracker((known or {}).get(p)) for p in new}
            if self._registers is not None and known is not None:
                # Who hands over has committed. Somebody has set the offset since, or the topic is
                # another: for messages to run, whatever was said of them.
                reset = {p: s for p, s in incoming.items() if not trackers[p].continues}
                self._registers.clear(reset)
                self._speak.set()
            self._work.assign(trackers, incoming)
            self._listening.begin()
            self.joined.set()
            log.info("partitions assigned", partitions=_names(new), kept=_names(kept))

    async def leave(self) -> bool:
        """Hand everything over for good, when the worker ends.

        Returns:
            Whether the group can be left at once. Otherwise nothing has been given away.
        """
        async with self._lock:
            partitions = list(self._work.trackers)
            self._leaving = not await self._hand_over(partitions, 0.0)
            if self._leaving:
                self._work.suspend(partitions)
            # What waits has been told, as far as there is anything to tell.
            self._work.scheduler.revoke([*partitions, *self._work.suspended])
            return self._leaving

    async def finish(self, seconds: float) -> int:
        """Wait for what runs, give back what does not end, and commit, when the worker ends.

        Returns:
            How many runs were cancelled.
        """
        work = self._work
        trackers = [*work.trackers.values(), *work.suspended.values(), *self._handed]
        await work.runs.wait(trackers, seconds, self._cut)
        # A rebalance may be waiting for the same runs.
        self._cut.set()
        late = {job.tracker for job in work.runs.unsettled(trackers)}
        cancelled = await self._cancel(late)
        await self._committer.commit()
        if self._registers is not None:
            await self._registers.flush()
            if self._leaving:
                await self._committer.conclude(self._registers.offsets, self._registers.group)
        work.retire([*work.trackers, *work.suspended])
        return cancelled

    async def close(self) -> None:
        """Disconnect."""
        if self._registers is not None:
            await self._registers.close()

    async def _hand_over(
        self, partitions: Collection[Partition], seconds: float
    ) -> dict[Partition, Tracker]:
        """Start nothing more, and see to it that what runs is over or known to others.

        Returns:
            Partitions of which neither is true within `seconds`.
        """
        self._work.halt(partitions)
        everything = {p: t for p in partitions if (t := self._work.trackers.get(p)) is not None}
        late, waited = everything, False
        deadline = time.monotonic() + seconds
        while True:
            await self._announce(
                {p: t for p, t in late.items() if t.handed is None or t.handed.vain}
            )
            if self._registers is not None:
                await self._registers.flush()
            # After it, and in any case if something was handed over: the commit proves that the
            # group had not gone on without us before others could read of it.
            announced = any(t.handed is not None for t in late.values())
            member = await self._committer.commit(everything=announced)
            running = {job.tracker for job in self._work.runs.unsettled(list(late.values()))}
            late = {
                p: t
                for p, t in late.items()
                if t in running and not (member and t.handed is not None and t.handed.covered)
            }
            rest = deadline - time.monotonic()
            if not late or rest <= 0 or self._cut.is_set():
                given = [t for p, t in everything.items() if p not in late]
                self._count("HandedOver", len(self._work.runs.unsettled(given)))
                return late
            if not waited:
                waited = True
                self._count("Waited", len(self._work.runs.unsettled(list(late.values()))))
            await self._work.runs.wait(list(late.values()), min(rest, AGAIN_SECONDS), self._cut)

    async def _announce(self, trackers: Mapping[Partition, Tracker]) -> None:
        """Prepare to say what runs."""
        if self._registers is None:
            return
        # A writer may have closed its register since, or have been silent for long enough.
        await self._listening.once([p for p, t in trackers.items() if self._lane(p, t) is None])
        running: defaultdict[Tracker, list[Job]] = defaultdict(list)
        for job in self._work.runs.unsettled(list(trackers.values())):
            running[job.tracker].append(job)
        for partition, tracker in trackers.items():
            items = self._items(partition, running[tracker])
            said, lane = self._work.inheritance.of(partition), self._lane(partition, tracker)
            if not items or said is None or lane is None:
                continue
            said.opened(lane)
            tracker.handed = Outgoing(items, time.monotonic)
            self._registers.open(partition, lane, tracker.handed)
            if tracker not in self._handed:
                self._handed.append(tracker)
            self._speak.set()

    def _lane(self, partition: Partition, tracker: Tracker) -> int | None:
        said = self._work.inheritance.of(partition)
        return None if said is None else said.free_lane(tracker)

    def _items(self, partition: Partition, running: Collection[Job]) -> dict[int, Item]:
        now = time.monotonic()
        items = {}
        for job in self._work.scheduler.retries(partition):
            delay = max(0, round((job.due - now) * 1000))
            mark = fingerprint(job.record)
            items[job.record.offset] = Item(mark, State.FREE, job.attempts, delay)
        for job in running:
            mark = fingerprint(job.record)
            items[job.record.offset] = Item(mark, State.RUNNING, job.attempts)
        return items

    async def _give_up(self, late: Mapping[Partition, Tracker]) -> int:
        """Cancel what could be neither awaited nor handed over."""
        cancelled = await self._cancel(set(late.values()))
        await self._committer.commit()
        self._work.retire(list(late))
        if self._registers is not None:
            await self._registers.flush()
        return cancelled

    async def _cancel(self, trackers: Collection[Tracker]) -> int:
        """Cancel the runs of trackers; others may run their messages at once."""
        if not trackers:
            return 0
        for tracker in trackers:
            tracker.retire()
        cancelled = await self._work.runs.cancel(trackers)
        self._count("Cancelled", cancelled)
        return cancelled

    def _take_back(self, partitions: Collection[Partition], generation: int) -> set[Partition]:
        """Go on with partitions that nobody else had meanwhile; the others are gone.

        The broker counts a generation for each time that partitions are handed out. If it has
        counted one since they were taken, nobody else has been given them.
        """
        suspended = self._work.suspended
        next_one = generation in (self._generation, self._generation + 1)
        kept = {p for p in partitions if next_one and p in suspended and not suspended[p].retired}
        for partition in kept:
            tracker = suspended[partition]
            if tracker.handed is not None:
                tracker.handed.withdraw()
                tracker.handed = None
            if tracker.position is not None:
                self._consumer.seek(partition, tracker.position)
        gone = {p: t for p, t in suspended.items() if p not in kept}
        self._handed = [t for t in self._handed if t.handed is not None]
        running = {job.tracker for job in self._work.runs.unsettled(list(gone.values()))}
        for tracker in gone.values():
            # What nobody was told of must not run beside its next owner.
            if tracker not in running or tracker.handed is None:
                tracker.retire()
        self._work.runs.cancel_retired()
        self._work.resume(kept)
        self._work.abandon(list(gone))
        return kept

    async def _tell(self) -> None:
        while self._registers is not None:
            await self._speak.wait()
            self._speak.clear()
            while self._registers.speaking:
                await asyncio.sleep(TELL_SECONDS)
                await self._registers.flush()
                fenced = [t for t in self._handed if t.retired]
                if fenced and (cancelled := await self._work.runs.cancel(fenced)):
                    self._count("Fenced", cancelled)
                    log.error("running messages dropped: others may run them", runs=cancelled)
                self._handed = [t for t in self._handed if t not in fenced]
            self._handed = []

    def _count(self, outcome: str, messages: int) -> None:
        self._metrics.handovers.labels(outcome).inc(messages)

    async def _committed(
        self, partitions: Collection[Partition]
    ) -> Mapping[Partition, Position] | None:
        """The group's commits; None when they cannot be read."""
        if not partitions:
            return {}
        try:
            return await within(self._consumer.committed(partitions), LOAD_SECONDS)
        except (KafkaUnavailableError, TimeoutError) as error:
            # The consumer asks again for where to fetch from. Only what is done beyond is not
            # known then, and runs again.
            log.warning("commit metadata not read", error=str(error) or "no answer")
            return None

    def _tracker(self, position: Position | None) -> Tracker:
        if position is None:
            return Tracker()
        return Tracker(position.offset, self._progress(position))

    def _progress(self, position: Position) -> Progress | None:
        if not position.metadata:
            return None
        try:
            return decode(position.offset, position.metadata).progress
        except MetadataError as error:
            self._metrics.metadata_ignored.inc()
            log.warning("commit metadata ignored", error=str(error))
            return None


def _names(partitions: Collection[Partition]) -> list[str]:
    return [f"{topic}-{partition}" for topic, partition in sorted(partitions)]
