"""What happens to running messages when partitions come and go.

This is the policy, and the only place that knows it: runs in flight are waited for, up to a
deadline, while the group stands still. `Drain` can be replaced as a whole by another
implementation of `kafka_port.Rebalances`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

import structlog

from flowbinding_api.offsets import MetadataError, Progress, decode
from flowbinding_worker.committer import Committer
from flowbinding_worker.kafka_port import ConsumerPort, KafkaUnavailableError, Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.work import Work

log = structlog.get_logger(__name__)

LOAD_SECONDS = 10.0
MAX_DRAIN_SECONDS = 300.0
WRITE_SECONDS = 5.0


def drain_seconds(timeout_seconds: float) -> float:
    """How long a rebalance waits for runs that may last `timeout_seconds`, and be written then."""
    return min(timeout_seconds + WRITE_SECONDS, MAX_DRAIN_SECONDS)


class Drain:
    """Waits for running messages before partitions go; implements `kafka_port.Rebalances`.

    Args:
        work: What runs.
        committer: Commits before they go.
        consumer: Knows what is committed.
        seconds: How long to wait at most.
        cut: Ends the wait, for a shutdown that is in a hurry.
        metrics: Counts.
    """

    def __init__(
        self,
        work: Work,
        committer: Committer,
        consumer: ConsumerPort,
        seconds: float,
        cut: asyncio.Event,
        metrics: Metrics,
    ) -> None:
        self._work = work
        self._committer = committer
        self._consumer = consumer
        self._seconds = seconds
        self._cut = cut
        self._metrics = metrics
        self.joined = asyncio.Event()
        """Set once the worker has been given partitions, or none, for the first time."""

    async def revoked(self, partitions: Collection[Partition], *, lost: bool) -> None:
        """Let running messages end, commit, and end the epoch."""
        if not partitions:
            return
        self._metrics.rebalances.inc()
        started = time.monotonic()
        self._work.halt(partitions)
        if not lost:
            await self._work.drain(partitions, self._seconds, self._cut)
            self._metrics.drain_seconds.observe(time.monotonic() - started)
        else:
            self._work.retire(partitions)
        cancelled = await self._work.cancel(partitions)
        await self._committer.commit()
        self._work.retire(partitions)
        log.info(
            "partitions revoked",
            partitions=_names(partitions),
            lost=lost,
            drain_seconds=round(time.monotonic() - started, 3),
            cancelled=cancelled,
        )

    async def assigned(self, partitions: Collection[Partition]) -> None:
        """Begin where the group's commits say."""
        known = await self._committed(partitions)
        self._work.assign({p: self._tracker(known.get(p)) for p in partitions})
        self.joined.set()
        log.info("partitions assigned", partitions=_names(partitions))

    async def _committed(self, partitions: Collection[Partition]) -> Mapping[Partition, Position]:
        if not partitions:
            return {}
        try:
            return await asyncio.wait_for(self._consumer.committed(partitions), LOAD_SECONDS)
        except (KafkaUnavailableError, TimeoutError) as error:
            # The consumer asks again for where to fetch from. Only what is done beyond is not
            # known then, and runs again.
            log.warning("commit metadata not read", error=str(error) or "no answer")
            return {}

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
