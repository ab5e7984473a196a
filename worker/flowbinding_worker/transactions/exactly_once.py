"""Exactly-once output: one transactional id for each assigned partition.

Everything that a run leaves behind (result, dead letter, offset) goes through Kafka transactions,
so that a reader with `isolation.level=read_committed` sees each result once, whatever dies. A
partition's transactional id is `<consumer group>-<topic>-<partition>`: whoever is given the
partition opens it, and Kafka refuses its former owner from then on. That is how Kafka Streams did
it before KIP-447; the newer way, one producer that names its membership, is not in aiokafka.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import structlog

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.offsets import Figures
from flowbinding_api.reasons import Reason
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from flowbinding_worker.tracker import Tracker
from flowbinding_worker.transactions.lane import Hooks, Lane, Waiting
from flowbinding_worker.transactions.port import TopicRefusedError, TransactionPort
from flowbinding_worker.trouble import Trouble

log = structlog.get_logger(__name__)

OPEN_SECONDS = 30.0
"""The group waits for us meanwhile."""
AT_ONCE = 16
"""Transactional ids that are opened at a time."""
FLUSH_SECONDS = 5.0
"""Longest wait for what waits, before partitions go."""
INTERVAL_SECONDS = 0.1
"""Between two transactions of a partition; results are visible so much later."""
MOST_PER_SECOND = 50
"""Transactions of a worker: each costs it about two milliseconds, and the broker its markers.
Beyond five partitions results are visible later instead: 0.24 s with twelve."""

ROOMY_BYTES = 32 * 1024 * 1024
"""Results of all partitions that may wait without their slots."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the transactions need to know of the worker.

    Attributes:
        trackers: What is done, by partition.
        figures: What commits say about the worker.
        metrics: Counts.
        trouble: Where to say that nothing can be written.
    """

    trackers: Mapping[Partition, Tracker]
    figures: Callable[[Tracker], Figures]
    metrics: Metrics
    trouble: Trouble


class Transactions:
    """The transactions of all assigned partitions.

    Args:
        make_port: Gives the transactional id of a partition.
    """

    def __init__(self, make_port: Callable[[Partition], TransactionPort]) -> None:
        self._make_port = make_port
        self._around: Surroundings | None = None
        self._lanes: dict[Partition, Lane] = {}
        self._tasks: dict[Partition, asyncio.Task[None]] = {}
        self._failing: set[Partition] = set()
        self.outdated: FlowBindingError | None = None
        """Why the worker has to join the group anew: others have gone on without it."""

    def attach(self, around: Surroundings) -> None:
        """To be called before anything else."""
        self._around = around

    @property
    def partitions(self) -> Collection[Partition]:
        """Those that are open."""
        return list(self._lanes)

    @property
    def waiting(self) -> int:
        """Messages whose results are not committed."""
        return sum(lane.waiting for lane in self._lanes.values())

    async def open(self, partitions: Collection[Partition]) -> Mapping[Partition, Position]:
        """Begin with partitions, and see what is committed for them.

        Only then: an offset that is read while its transaction is being ended is an old one.

        Raises:
            KafkaUnavailableError: Some cannot be opened.
            TimeoutError: It took too long.
        """
        await self.close(partitions)
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(lane: Lane) -> Position | FlowBindingError | None:
            try:
                async with turns:
                    return await lane.open()
            except FlowBindingError as error:
                # The others are not left half open.
                return error

        lanes = {p: Lane(self._make_port(p), self._hooks(p)) for p in partitions}
        self._lanes.update(lanes)
        async with asyncio.timeout(OPEN_SECONDS):
            found = await asyncio.gather(*(one(lane) for lane in lanes.values()))
        for error in found:
            if isinstance(error, FlowBindingError):
                self._worker().trouble.report("transactions", error.reason, str(error))
                raise error
        self._worker().trouble.clear("transactions")
        self._pace()
        for partition, lane in lanes.items():
            self._tasks[partition] = task = asyncio.create_task(lane.run())
            task.add_done_callback(self._ended)
        return {p: x for p, x in zip(lanes, found, strict=True) if isinstance(x, Position)}

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A lane that a fault of ours has ended would write nothing any more, without a word."""
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("unexpected error", exc_info=fault)
            text = f"unexpected {type(fault).__name__} in a transaction; the worker's log has more"
            self.outdated = KafkaUnavailableError(text)

    async def close(self, partitions: Collection[Partition]) -> None:
        """End with partitions. What waits has never happened."""
        tasks = [task for p in partitions if (task := self._tasks.pop(p, None)) is not None]
        lanes = [lane for p in partitions if (lane := self._lanes.pop(p, None)) is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in lanes))
        for partition in partitions:
            self._recovered(partition)
        self._pace()

    async def stop(self) -> None:
        """End with all partitions."""
        await self.close(list(self._lanes))

    async def flush(self) -> bool:
        """Write what waits, within bounds.

        Returns:
            Whether nothing is left.
        """
        lanes = list(self._lanes.values())
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await asyncio.gather(*(lane.drain() for lane in lanes))
        except TimeoutError:
            log.warning("results not written yet", waiting=self.waiting)
        return not any(lane.waiting for lane in lanes)

    def tell(self) -> None:
        """Commit the figures with the next transactions, even if nothing else is new."""
        for lane in self._lanes.values():
            lane.tell = True

    def put(self, item: Waiting) -> None:
        """Have something written for a message; of no effect when it is not ours any more."""
        lane = self._lanes.get(item.job.partition)
        if lane is not None and not item.job.tracker.retired:
            lane.put(item)

    def _pace(self) -> None:
        for lane in self._lanes.values():
            lane.interval = max(INTERVAL_SECONDS, len(self._lanes) / MOST_PER_SECOND)
            lane.roomy_bytes = ROOMY_BYTES // len(self._lanes)

    def _hooks(self, partition: Partition) -> Hooks:
        around = self._worker()

        def failing(error: FlowBindingError | None) -> None:
            if error is None:
                self._recovered(partition)
            else:
                self._failed(partition, error)

        def outdated(error: FlowBindingError) -> None:
            topic, number = partition
            log.warning("results dropped", error=str(error), topic=topic, partition=number)
            self.outdated = error

        return Hooks(
            tracker=lambda: around.trackers.get(partition),
            figures=around.figures,
            committed=around.metrics.commits.inc,
            failing=failing,
            outdated=outdated,
        )

    def _failed(self, partition: Partition, error: FlowBindingError) -> None:
        self._failing.add(partition)
        log.info("transaction failed", error=str(error), topic=partition.topic)
        reason = Reason.OUTPUT_UNAVAILABLE
        if isinstance(error, TopicRefusedError) and error.reason == Reason.DEAD_LETTER_UNAVAILABLE:
            reason = Reason.DEAD_LETTER_UNAVAILABLE
        self._worker().trouble.report("output", reason, str(error))

    def _recovered(self, partition: Partition) -> None:
        self._failing.discard(partition)
        if not self._failing:
            self._worker().trouble.clear("output")

    def _worker(self) -> Surroundings:
        if self._around is None:
            raise RuntimeError("attach was not called")
        return self._around
