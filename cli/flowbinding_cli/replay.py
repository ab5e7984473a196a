"""Settles dead letters of a binding: replayed or dropped, each exactly once.

A letter is settled by one Kafka transaction that holds both the replayed record and the progress
(see `scan`). Either both are there or neither is, whenever the process dies. The group's name is
the transactional id too, so that a replay that begins fences one that still runs, and ends what a
dead one left open. It reads the progress only after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import OffsetAndMetadata

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.kafka_options import NULL
from flowbinding_cli.kafka import Cluster, KafkaTroubleError, told
from flowbinding_cli.letters import DeadLetter, Filter
from flowbinding_cli.progress import Ledger
from flowbinding_cli.scan import Old, OnScan, Scope, forgotten_text, scanning

BATCH = 100
"""Letters in one transaction."""
BATCH_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Outcome:
    """What came of a replay or a drop.

    Attributes:
        settled: Letters that are done now.
        written: Records written, by topic.
        kept: Letters that were meant but could not be replayed, by why.
        left: Letters that were not meant.
    """

    settled: int = 0
    written: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    left: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """What a user wants done with dead letters.

    Attributes:
        chosen: Which ones.
        write: True to replay them; False only to call them done.
        to: Topic to write to; each letter's own source topic when None.
        limit: At most so many.
        old: What letters are that Kafka may have forgotten.
        dry_run: Only count.
    """

    chosen: Filter
    write: bool
    to: str | None = None
    limit: int | None = None
    old: Old | None = None
    dry_run: bool = False


class Settlement:
    """Replays or drops letters.

    Args:
        cluster: Where they are.
        scope: Whose.
        order: What to do with which.
    """

    def __init__(self, cluster: Cluster, scope: Scope, order: Order) -> None:
        self._cluster = cluster
        self._scope = scope
        self._order = order
        self.outcome = Outcome()

    async def run(self, on_scan: OnScan | None = None) -> Outcome:
        """Do it.

        Returns:
            What was done; with `dry_run`, what would be.

        Raises:
            FencedError: Another replay of the same letters began. What this one committed counts.
            ProgressError: The progress can be read or written no more. The same holds.
            FlowBindingError: Kafka refuses. The same holds.
        """
        widths = await self._widths()
        if self._order.dry_run:
            await self._go(None, widths, on_scan)
            return self.outcome
        async with self._cluster.producer(self._scope.progress_group) as producer:
            with told("the dead letters are not all settled; what is, stays so"):
                await self._go(producer, widths, on_scan)
        return self.outcome

    async def _widths(self) -> Mapping[str, int]:
        """Partitions of the topics that may be written to.

        Raises:
            FlowBindingError: The topic that the user named does not exist.
        """
        order, scope = self._order, self._scope
        topics = (order.to,) if order.to else scope.sources
        if order.to in scope.topics:
            raise FlowBindingError(f"--to {order.to}: is the dead-letter topic itself")
        widths = Counter(tp.topic for tp in await self._cluster.partitions(*topics))
        if order.to and not widths:
            raise FlowBindingError(f"--to {order.to}: no such topic, or you may not see it")
        return widths

    async def _go(self, producer: Any, widths: Mapping[str, int], on_scan: OnScan | None) -> None:
        order = self._order
        async with scanning(self._cluster, self._scope, old=order.old) as scan:
            if scan.forgotten:
                raise FlowBindingError(forgotten_text(scan))
            batch = _Batch(scan.ledgers)
            async with aclosing(scan.letters(on_scan)) as letters:
                async for letter, done in letters:
                    self._sort(letter, batch, widths, done=done)
                    if self.outcome.settled + len(batch.letters) == order.limit:
                        break
                    if batch.full:
                        await self._settle(producer, batch, widths)
            # Also without letters: the offsets stay fresh in Kafka's memory.
            await self._settle(producer, batch, widths, refresh=True)

    def _sort(
        self, letter: DeadLetter, batch: _Batch, widths: Mapping[str, int], *, done: bool
    ) -> None:
        """Take a letter into the batch, or say why not."""
        order = self._order
        meant = not done and order.chosen.matches(letter)
        why = _obstacle(letter, order, widths) if meant and order.write else ""
        if why:
            self.outcome.kept[why] += 1
        elif meant:
            batch.add(letter)
        elif not done:
            self.outcome.left += 1
        batch.note(letter, done=done or (meant and not why))

    async def _settle(
        self, producer: Any, batch: _Batch, widths: Mapping[str, int], *, refresh: bool = False
    ) -> None:
        """One transaction: the records, and that they are done."""
        targets = [self._target(letter, widths) for letter in batch.letters]
        offsets = batch.offsets(everything=refresh)
        if producer is not None and offsets:
            await _transact(
                producer,
                zip(batch.letters, targets, strict=True) if self._order.write else (),
                offsets,
                self._scope.progress_group,
            )
        self.outcome.settled += len(batch.letters)
        if self._order.write:
            self.outcome.written.update(topic for topic, _ in targets)
        batch.clear()

    def _target(self, letter: DeadLetter, widths: Mapping[str, int]) -> tuple[str, int | None]:
        """Topic and partition of a replayed record.

        Back in its own topic it goes to its own partition: whoever produced it may place keys
        otherwise than we do.
        """
        source = letter.source
        if source is None or self._order.to not in (None, source.topic):
            return self._order.to or "", None
        inside = source.partition < widths.get(source.topic, 0)
        return source.topic, source.partition if inside else None


def _obstacle(letter: DeadLetter, order: Order, widths: Mapping[str, int]) -> str:
    """Why a letter cannot be replayed; empty when it can."""
    if letter.cut:
        return "the value was too large for the dead-letter topic and is not there"
    if order.to is not None:
        return ""
    topic = letter.source.topic if letter.source else "?"
    if topic not in widths:
        return f"topic {topic} is none of the binding's that exist (see --to)"
    return ""


class _Batch:
    """Letters of the next transaction, and the ledgers that it changes."""

    def __init__(self, ledgers: Mapping[TopicPartition, Ledger]) -> None:
        self.letters: list[DeadLetter] = []
        self._ledgers = ledgers
        self._touched: set[TopicPartition] = set()
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether it is enough for one transaction."""
        return len(self.letters) >= BATCH or self._bytes >= BATCH_BYTES

    def add(self, letter: DeadLetter) -> None:
        """Take a letter in."""
        self.letters.append(letter)
        self._bytes += len(letter.key or b"") + len(letter.value or b"")

    def note(self, letter: DeadLetter, *, done: bool) -> None:
        """Take down whether it will be done."""
        partition = _partition(letter)
        self._ledgers[partition].note(letter.place.offset, done=done)
        if done:
            self._touched.add(partition)

    def offsets(self, *, everything: bool) -> dict[TopicPartition, OffsetAndMetadata]:
        """What to commit: of changed partitions, or of all that have progress.

        Raises:
            ProgressError: It does not fit.
        """
        some = self._ledgers if everything else self._touched
        found = {tp: self._ledgers[tp].commit() for tp in some}
        return {tp: OffsetAndMetadata(*commit) for tp, commit in found.items()}

    def clear(self) -> None:
        """Begin the next one."""
        self.letters.clear()
        self._touched.clear()
        self._bytes = 0


def _partition(letter: DeadLetter) -> TopicPartition:
    return TopicPartition(letter.place.topic, letter.place.partition)


async def _transact(
    producer: Any,
    records: Iterable[tuple[DeadLetter, tuple[str, int | None]]],
    offsets: Mapping[TopicPartition, OffsetAndMetadata],
    group: str,
) -> None:
    """Write records and commit offsets, both or neither."""
    async with producer.transaction():
        sent = []
        for letter, (topic, partition) in records:
            future = await producer.send(
                topic,
                key=NULL if letter.key is None else letter.key,
                value=NULL if letter.value is None else letter.value,
                headers=list(letter.headers),
                partition=partition,
            )
            sent.append((letter, topic, future))
        for letter, topic, future in sent:
            try:
                await future
            except MessageSizeTooLargeError:
                raise KafkaTroubleError(
                    f"topic {topic} does not take a record as large as dead letter {letter.id}"
                ) from None
        await producer.send_offsets_to_transaction(dict(offsets), group)
