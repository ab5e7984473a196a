"""The consumer group's side of exactly-once output: commits, rebalances, and being outdated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

from flowbinding_worker.committer import INTERVAL_SECONDS, Committer
from flowbinding_worker.figures import Mean
from flowbinding_worker.handover.rebalance import Handover
from flowbinding_worker.kafka.consumer import ClientOptions, ConsumerSettings, KafkaConsumer
from flowbinding_worker.kafka.port import Batch, ConsumerBrokenError, ConsumerPort, Position
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.ports import Partition
from flowbinding_worker.transactions.exactly_once import Surroundings, Transactions
from flowbinding_worker.trouble import Trouble
from flowbinding_worker.work import Work


class TransactionCommitter(Committer):
    """Commits through transactions only.

    Args:
        transactions: Commit.
        consumer: Never commits.
        work: What is done.
        seconds_per_message: For the figures.
        instance: Name of the worker.
        metrics: Counts.
        trouble: For the figures, and where to say that nothing can be written.
    """

    def __init__(
        self,
        transactions: Transactions,
        consumer: ConsumerPort,
        work: Work,
        seconds_per_message: Mean,
        instance: str,
        metrics: Metrics,
        trouble: Trouble,
    ) -> None:
        super().__init__(consumer, work, seconds_per_message, instance, metrics, trouble)
        self._transactions = transactions
        around = Surroundings(work.trackers, self._figures, metrics, trouble)
        transactions.attach(around)

    async def run(self) -> None:
        """Tell the operator how the worker is doing, until cancelled; results commit themselves."""
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            load = self._load()
            if self._worth_telling(load):
                self._told, self._told_at = load, time.monotonic()
                self._transactions.tell()

    async def commit(self, *, everything: bool = False) -> bool:
        """Write and commit all that waits; see `Committer.commit`."""
        if everything:
            self._transactions.tell()
        return await self._transactions.flush()


class TransactionHandover(Handover):
    """Waits for running messages when partitions go: only who reads an offset may write after it.

    A call that went on beside the new owner would have to leave its result to it. So the group
    stands still for running calls, up to the deadline, in this mode.
    """

    def __init__(
        self,
        transactions: Transactions,
        work: Work,
        committer: Committer,
        consumer: ConsumerPort,
        seconds: float,
        cut: asyncio.Event,
        metrics: Metrics,
    ) -> None:
        super().__init__(work, committer, consumer, None, seconds, cut, metrics)
        self._transactions = transactions

    async def run(self) -> None:
        """Nothing to tell or to ask, until cancelled."""
        await asyncio.Event().wait()

    async def assigned(self, partitions: Collection[Partition], *, generation: int) -> None:
        """Begin with what is new; see `kafka_port.Rebalances`."""
        gone = [p for p in self._transactions.partitions if p not in partitions]
        await self._transactions.close(gone)
        await super().assigned(partitions, generation=generation)

    async def leave(self) -> bool:
        """Stay in the group until all is written."""
        self._work.halt(list(self._work.trackers))
        return False

    async def close(self) -> None:
        """Disconnect."""
        await self._transactions.stop()

    async def _committed(self, partitions: Collection[Partition]) -> Mapping[Partition, Position]:
        """Where to begin: asked after the former owner has been shut out.

        What the consumer has asked on its own before may be older.
        """
        found = await self._transactions.open(partitions)
        for partition, position in found.items():
            self._consumer.seek(partition, position.offset)
        return found


class FencedConsumer(KafkaConsumer):
    """A member of the group that joins it anew when others have gone on without it.

    Args:
        transactions: Find that out.
        settings: See `KafkaConsumer`.
        options: See `KafkaConsumer`.
    """

    def __init__(
        self, transactions: Transactions, settings: ConsumerSettings, options: ClientOptions
    ) -> None:
        super().__init__(settings, options)
        self._transactions = transactions

    async def poll(self, wanted: Mapping[Partition, int], seconds: float) -> Sequence[Batch]:
        """Fetched records; see `ConsumerPort`."""
        error, self._transactions.outdated = self._transactions.outdated, None
        if error is not None:
            raise ConsumerBrokenError(str(error))
        return await super().poll(wanted, seconds)
