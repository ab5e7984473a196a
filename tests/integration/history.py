"""What was called and committed, held against what a worker promises."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from flowbinding_api.offsets import MetadataError, decode
from integration.flow_server import Call
from kafkaio import admin, committed_by, reader

SAMPLE_SECONDS = 0.1

Place = tuple[int, int]
"""Partition and offset."""


def repeated(calls: Iterable[Call]) -> set[Place]:
    """Messages that were called more than once."""
    counts = Counter(call.place for call in calls)
    return {place for place, count in counts.items() if count > 1}


def assert_serial(calls: Iterable[Call], chain: Callable[[Call], Hashable]) -> None:
    """Of each chain no two calls overlap, and none goes back; retries of a message may follow it.

    By the server's own clock, over all workers.
    """
    chains: defaultdict[Hashable, list[Call]] = defaultdict(list)
    for call in sorted(calls, key=lambda call: call.start):
        chains[chain(call)].append(call)
    for name, members in chains.items():
        for earlier, later in itertools.pairwise(members):
            story = f"{name}: {earlier.request_id} before {later.request_id}"
            assert earlier.end is not None, f"{story}: the first one still runs"
            assert later.start >= earlier.end, f"{story}: they overlap"
            assert later.place >= earlier.place, f"{story}: backwards"


@dataclass
class CommitWatch:
    """Samples a group's commits, and holds each against what was really done by then.

    Attributes:
        done: Asked for the messages that are done, after each sample was taken.
        wrong: Promises that a sample broke.
        samples: How many there were.
    """

    group: str
    done: Callable[[], Collection[Place]]
    wrong: list[str] = field(default_factory=list)
    samples: int = 0
    offsets: dict[int, int] = field(default_factory=dict)
    """The last sample: committed offset of each partition."""
    _written: set[Place] = field(default_factory=set)

    async def sample(self, client: AIOKafkaAdminClient, output: AIOKafkaConsumer | None) -> None:
        found = await committed_by(client, self.group)
        done = self.done()
        if output is not None:
            await self._read(output)
            done = self._written & set(done)
        for tp, (offset, metadata) in found.items():
            self._check(tp.partition, offset, metadata, done)
        self.samples += 1

    def _check(self, number: int, offset: int, metadata: str, done: Collection[Place]) -> None:
        before = self.offsets.get(number, 0)
        if offset < before:
            self.wrong.append(f"partition {number} went back from {before} to {offset}")
        self.offsets[number] = offset
        claimed = set(range(before, offset))
        try:
            progress = decode(offset, metadata).progress
        except MetadataError as error:
            self.wrong.append(f"partition {number}: {error}")
        else:
            claimed |= {o for o in range(offset, progress.hi_done) if progress.is_done(o)}
        self.wrong += [
            f"partition {number}: a commit of {offset} calls {o} done, which it is not"
            for o in sorted(claimed)
            if (number, o) not in done
        ]

    async def _read(self, output: AIOKafkaConsumer) -> None:
        """Take in what the output topic holds by now."""
        ends = await output.end_offsets(list(output.assignment()))
        while any([await output.position(tp) < end for tp, end in ends.items()]):
            for batch in (await output.getmany(timeout_ms=100)).values():
                for record in batch:
                    source = dict(record.headers)["flowbinding-source"].decode()
                    _, number, offset = source.rsplit("-", 2)
                    self._written.add((int(number), int(offset)))


@asynccontextmanager
async def watching_commits(
    bootstrap: str, group: str, done: Callable[[], Collection[Place]], output: str | None = None
) -> AsyncIterator[CommitWatch]:
    """Watch while the context lasts; at its end, fail for what was wrong.

    Args:
        bootstrap: The cluster.
        group: A group with the commits of one topic whose offsets have no gaps.
        done: The messages that are done by now.
        output: Topic in which the result of each of them must be as well.
    """
    watch = CommitWatch(group, done)

    async def watch_on(client: AIOKafkaAdminClient, results: AIOKafkaConsumer | None) -> None:
        while True:
            await watch.sample(client, results)
            await asyncio.sleep(SAMPLE_SECONDS)

    async with admin(bootstrap) as client, reader(bootstrap, *([output] if output else [])) as out:
        task = asyncio.create_task(watch_on(client, out if output else None))
        try:
            yield watch
        finally:
            task.cancel()
            [ended] = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(ended, asyncio.CancelledError):
            raise ended or AssertionError("the watch ended")
        await watch.sample(client, out if output else None)
    assert not watch.wrong, f"{len(watch.wrong)} wrong, first: {watch.wrong[:5]}"
    assert watch.samples > 1
