"""Reads the dead letters of a binding, and which of them are done.

The progress of replays is kept in Kafka, as offsets of the group `<consumer group>.replay`, with
the metadata of `progress`. Kafka forgets the offsets of a sleeping group, after seven days by
default. Letters that are older than that, in a partition without progress, may have been replayed
and forgotten: nothing is done with them before the user says how it is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from aiokafka import ConsumerRecord, TopicPartition

from flowbinding_api import FlowBinding
from flowbinding_api.errors import FlowBindingError
from flowbinding_api.spec import REPLAY_SUFFIX
from flowbinding_cli.kafka import Cluster, Offsets, Reader
from flowbinding_cli.letters import DeadLetter, Source, dead_letter
from flowbinding_cli.progress import Ledger, ProgressError

OnScan = Callable[[int, int], None]
"""Told how many offsets are scanned, of how many."""


class Old(StrEnum):
    """What letters are that Kafka cannot remember the replay of."""

    OPEN = "open"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Scope:
    """The dead letters of a binding.

    Attributes:
        group: Its consumer group: letters of other groups in a shared topic are not meant.
        topics: Its dead-letter topics.
        sources: Its source topics.
    """

    group: str
    topics: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def progress_group(self) -> str:
        """Consumer group of the progress, and transactional id."""
        return self.group + REPLAY_SUFFIX

    @classmethod
    def of(cls, binding: FlowBinding) -> Scope:
        """From a manifest.

        Raises:
            FlowBindingError: Dead letters are switched off.
        """
        sources = binding.spec.source.all_topics
        # A schedule's dead letters have a topic only by name.
        topics = [binding.dead_letter_topic(topic) for topic in sources or ("",)]
        named = tuple(dict.fromkeys(topic for topic in topics if topic))
        if not named:
            scheduled = binding.spec.source.schedule is not None
            why = "topic is not set" if scheduled else "enabled is false"
            raise FlowBindingError(f"{binding.key} has no dead letters: spec.deadLetter.{why}")
        return cls(binding.consumer_group, named, sources)


@asynccontextmanager
async def scanning(
    cluster: Cluster, scope: Scope, *, everything: bool = False, old: Old | None = None
) -> AsyncIterator[Scan]:
    """A scan of the scope's letters, from where its progress is.

    Args:
        cluster: Where they are.
        scope: Which.
        everything: From the beginning of the topics, done ones included.
        old: What letters are that Kafka may have forgotten.

    Raises:
        ProgressError: The progress cannot be read.
    """
    partitions = await cluster.partitions(*scope.topics)
    commits = await cluster.committed(scope.progress_group, partitions)
    async with cluster.reader(partitions) as reader:
        starts, ends = await reader.starts(), await reader.ends()
        ledgers = {}
        for tp in partitions:
            offset, metadata = commits.get(tp, (starts[tp], ""))
            try:
                ledgers[tp] = Ledger(offset, metadata)
            except ProgressError as error:
                raise ProgressError(
                    f"group {scope.progress_group}, {tp.topic}-{tp.partition}: {error}"
                ) from None
        begin = starts if everything else {tp: max(starts[tp], ledgers[tp].start) for tp in starts}
        scan = Scan(scope, reader, ledgers, begin, ends)
        await scan.settle_forgotten(cluster, set(partitions) - commits.keys(), old)
        reader.seek(scan.begin)
        yield scan


class Scan:
    """One pass over the dead letters of a scope.

    Args:
        scope: Which letters are meant.
        reader: Assigned to their partitions.
        ledgers: What is done.
        begin: Where to begin.
        ends: Where to end.
    """

    def __init__(
        self,
        scope: Scope,
        reader: Reader,
        ledgers: dict[TopicPartition, Ledger],
        begin: Offsets,
        ends: Offsets,
    ) -> None:
        self.scope = scope
        self.ledgers = ledgers
        self.begin = begin
        self.forgotten = 0
        self.missing = sorted(set(scope.topics) - {tp.topic for tp in ledgers})
        self._reader = reader
        self._ends = ends

    async def settle_forgotten(
        self, cluster: Cluster, unknown: set[TopicPartition], old: Old | None
    ) -> None:
        """Count the letters that may have been replayed and forgotten, and do as `old` says."""
        if not unknown:
            return
        kept = await cluster.offset_retention_seconds()
        older = await self._reader.older_than(round((time.time() - kept) * 1000))
        for tp in unknown:
            if old is Old.DONE and older[tp]:
                self.begin[tp] += older[tp]
                self.ledgers[tp] = Ledger(self.begin[tp])
            elif old is None:
                self.forgotten += older[tp]

    async def letters(
        self, on_scan: OnScan | None = None
    ) -> AsyncGenerator[tuple[DeadLetter, bool], None]:
        """The letters with whether each is done, in order within a partition."""
        total = sum(max(0, end - self.begin[tp]) for tp, end in self._ends.items())
        scanned = dict.fromkeys(self.begin, 0)
        async for records in self._reader.until(self._ends):
            for record in records:
                tp = TopicPartition(record.topic, record.partition)
                scanned[tp] = record.offset + 1 - self.begin[tp]
                letter = letter_of(record)
                if letter.group == self.scope.group:
                    yield letter, self.ledgers[tp].is_done(record.offset)
            if on_scan is not None:
                on_scan(sum(scanned.values()), total)
        if on_scan is not None:
            on_scan(total, total)


def letter_of(record: ConsumerRecord) -> DeadLetter:
    """A record of a dead-letter topic."""
    place = Source(record.topic, record.partition, record.offset)
    return dead_letter(place, record.key, record.value, record.headers, record.timestamp)


def missing_text(scan: Scan) -> str:
    """Why there are no dead letters of some topics."""
    return f"no such topic, or you may not see it: {', '.join(scan.missing)}"


def forgotten_text(scan: Scan) -> str:
    """Why nothing is done, and what the user can do."""
    return (
        f"up to {scan.forgotten} dead letters are older than Kafka keeps the progress of a replay,"
        f" and group {scan.scope.progress_group} has none: they may have been replayed before. Say"
        " --old open if they were not, or --old done to leave them out for good"
    )
