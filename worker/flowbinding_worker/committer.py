"""Commits what is done, with the metadata that a restart and the operator need."""

from __future__ import annotations

import asyncio
import time
import zlib

import structlog

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.offsets import Figures, encode
from flowbinding_worker.figures import Mean
from flowbinding_worker.handover.offsets import OffsetsPort
from flowbinding_worker.kafka.port import (
    ConsumerPort,
    KafkaUnavailableError,
    MembershipLostError,
    Position,
    RebalancingError,
)
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.waiting import within
from flowbinding_worker.work import Work

log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 1.0
COMMIT_SECONDS = 5.0
"""aiokafka's commit tries for ever; we try again with newer offsets instead."""
FIGURES_SECONDS = 5.0
"""How often a change of the load alone is worth a commit."""
PUT_OFF_SECONDS = 60.0
"""How long commits may be put off without a word: a rebalance may wait for running messages."""


class Committer:
    """The only one who commits.

    Args:
        consumer: Commits.
        work: What is done.
        seconds_per_message: For the figures.
        instance: Name of the worker.
        metrics: Counts.
        trouble: For the figures, and where to say that commits fail.
    """

    def __init__(
        self,
        consumer: ConsumerPort,
        work: Work,
        seconds_per_message: Mean,
        instance: str,
        metrics: Metrics,
        trouble: Trouble,
    ) -> None:
        self._consumer = consumer
        self._work = work
        self._mean = seconds_per_message
        self._instance = zlib.crc32(instance.encode())
        self._metrics = metrics
        self._trouble = trouble
        self._told: tuple[int, float] = (-1, 0.0)
        self._told_at = 0.0
        self._put_off_since: float | None = None
        self._acknowledged: dict[Partition, Position] = {}
        # Of two commits at once, the older could arrive last.
        self._lock = asyncio.Lock()

    async def run(self) -> None:
        """Commit every second what has changed, until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self.commit()

    async def commit(self, *, everything: bool = False) -> bool:
        """Commit what has changed. What fails is tried again, with newer offsets, by the next.

        Args:
            everything: Also what has not changed: an acknowledgement proves our membership.

        Returns:
            Whether all that there was to commit is acknowledged.
        """
        async with self._lock:
            load = self._load()
            everything = everything or self._worth_telling(load)
            news = self._news(everything=everything)
            if not news:
                self._put_off_since = None
                return True
            about = [(t := self._work.trackers[p], (x.offset, t.version)) for p, x in news.items()]
            try:
                await within(self._consumer.commit(news), COMMIT_SECONDS)
            except RebalancingError as error:
                self._put_off(error)
            except MembershipLostError as error:
                log.warning("commit refused", error=str(error))
                self._put_off_since = None
                # The partitions may be somebody else's: nothing of ours counts any more.
                await self._work.forget()
            except (KafkaUnavailableError, TimeoutError) as error:
                text = str(error) or f"no answer to a commit for {COMMIT_SECONDS:.0f} s"
                self._trouble.report("commit", KafkaUnavailableError.reason, text)
            else:
                for tracker, acknowledged in about:
                    tracker.acknowledged = acknowledged
                self._acknowledged |= news
                if everything:
                    self._told, self._told_at = load, time.monotonic()
                self._put_off_since = None
                self._metrics.commits.inc()
                self._trouble.clear("commit")
                return True
            return False

    async def conclude(self, offsets: OffsetsPort, group: str) -> None:
        """Commit what messages have come to that were running when we left the group.

        Only while the group has no members, which the broker sees to, and nobody has committed
        after us: a sole worker's end leaves nothing to be done again, and no lag.
        """
        ours = {p: self._acknowledged[p] for p in self._work.suspended if p in self._acknowledged}
        if not ours:
            return
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                found = await offsets.read(group, list(ours))
                news = {
                    p: self._position(offset, tracker)
                    for p, tracker in self._work.suspended.items()
                    if p in ours and found.get(p) == ours[p]
                    if (offset := tracker.committable) is not None
                }
                if news:
                    await offsets.write(group, news)
        except (FlowBindingError, TimeoutError) as error:
            log.debug("last offsets left to the others", error=str(error) or "no answer")

    def _put_off(self, error: RebalancingError) -> None:
        """Say so when it lasts: by then it is no rebalance any more."""
        log.debug("commit put off", error=str(error))
        now = time.monotonic()
        self._put_off_since = self._put_off_since or now
        if now - self._put_off_since >= PUT_OFF_SECONDS:
            self._trouble.report("commit", error.reason, f"commits are put off: {error}")

    def _news(self, *, everything: bool) -> dict[Partition, Position]:
        """What differs from what the broker has acknowledged, or all partitions."""
        news = {}
        for partition, tracker in self._work.trackers.items():
            offset = tracker.committable
            least, version = tracker.acknowledged
            if offset is None or offset < least:
                continue
            if everything or tracker.version != version:
                news[partition] = self._position(offset, tracker)
        return news

    def _position(self, offset: int, tracker: Tracker) -> Position:
        return Position(offset, encode(offset, tracker.progress(), self._figures(tracker)))

    def _load(self) -> tuple[int, float]:
        """What is worth telling the operator about: troubles and, roughly, the load."""
        busy = self._work.slots.busy.share(time.monotonic())
        return self._trouble.version, round(busy, 1)

    def _worth_telling(self, load: tuple[int, float]) -> bool:
        if load[0] != self._told[0]:
            return True
        return load != self._told and time.monotonic() - self._told_at >= FIGURES_SECONDS

    def _figures(self, tracker: Tracker) -> Figures:
        return Figures(
            instance=self._instance,
            slots=self._work.scheduler.slots,
            busy=self._work.slots.busy.share(time.monotonic()),
            seconds_per_message=self._mean.value,
            oldest_timestamp_ms=tracker.oldest_timestamp_ms,
            reason=self._trouble.reason,
            message=self._trouble.message,
        )
