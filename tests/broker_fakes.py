"""Kafka in memory, for tests of the worker's engine."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flowbinding_worker.kafka.port import (
    Batch,
    Headers,
    KafkaUnavailableError,
    Position,
    Rebalances,
)
from flowbinding_worker.ports import Partition, Record

P0, P1 = Partition("in", 0), Partition("in", 1)


@dataclass
class FakeBroker:
    """Partitions of one topic, the commits of one group, and what was produced."""

    logs: dict[Partition, list[Record]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[Partition, int] = field(default_factory=dict)
    commits: dict[Partition, Position] = field(default_factory=dict)
    history: list[dict[Partition, Position]] = field(default_factory=list)
    produced: list[tuple[str, bytes | None, bytes | None, dict[str, bytes | None]]] = field(
        default_factory=list
    )
    finished: set[Record] = field(default_factory=set)
    """Messages that were answered, filtered or made dead letters, whoever committed them."""
    registers: dict[tuple[str, Partition], Position] = field(default_factory=dict)
    """Offsets committed without membership."""
    members: set[FakeConsumer] = field(default_factory=set)
    generation: int = 0
    """Of the group; tests hand partitions out by hand."""
    lost: list[str] = field(default_factory=list)
    """Commits that passed a message which was not finished; a test fails at its end for them."""

    def check(self, positions: Mapping[Partition, Position]) -> None:
        """Note what these commits would lose."""
        for partition, position in positions.items():
            before = self.commits.get(partition)
            least = before.offset if before else 0
            for record in self.logs[partition]:
                passed = least <= record.offset < position.offset
                if passed and record not in self.finished:
                    self.lost.append(f"{partition}: {position.offset} passes {record.offset}")

    def produce(
        self, messages: Iterable[tuple[bytes | None, bytes | None]], number: int = 0
    ) -> None:
        partition = Partition("in", number)
        log = self.logs[partition]
        for key, value in messages:
            offset = log[-1].offset + 1 if log else self.starts.get(partition, 0)
            log.append(Record(partition, offset, key, value, (), 1_000))

    def end(self, partition: Partition) -> int:
        log = self.logs[partition]
        return log[-1].offset + 1 if log else self.starts.get(partition, 0)

    def sent_to(self, topic: str) -> list[bytes | None]:
        return [value for name, _, value, _ in self.produced if name == topic]


class FakeConsumer:
    """A group member; the test decides when partitions come and go."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.positions: dict[Partition, int] = {}
        self.listener: Rebalances | None = None
        self.stopped = False
        self.clean = True
        self.refusal: BaseException | None = None
        self.hang = False
        self.unreachable = False
        self.generation = -1
        self.sought: dict[Partition, int] = {}
        self.count = 0
        """Partitions of the topic, if more than are assigned."""
        self.on_start: Collection[Partition] = [Partition("in", 0)]

    async def start(self, listener: Rebalances) -> None:
        if self.unreachable:
            raise KafkaUnavailableError("nobody there")
        self.listener = listener
        self.broker.members.add(self)
        await self.assign(self.on_start)

    async def assign(self, partitions: Collection[Partition]) -> None:
        """A rebalance hands them out; `assign_again` is for other members of the same one."""
        self.broker.generation += 1
        await self.assign_again(partitions)

    async def assign_again(self, partitions: Collection[Partition]) -> None:
        assert self.listener is not None
        self.generation = self.broker.generation
        self.sought = {}
        await self.listener.assigned(partitions, generation=self.generation)
        for partition in partitions:
            known = self.broker.commits.get(partition)
            start = known.offset if known else 0
            self.positions[partition] = self.sought.get(partition, start)

    async def revoke(self, *, lost: bool = False) -> None:
        assert self.listener is not None
        gone, self.positions = list(self.positions), {}
        await self.listener.revoked(gone, lost=lost, generation=self.generation)

    def seek(self, partition: Partition, offset: int) -> None:
        self.sought[partition] = offset

    async def stop(self) -> bool:
        self.stopped = True
        self.broker.members.discard(self)
        return self.clean

    async def poll(self, wanted: Mapping[Partition, int], seconds: float) -> Sequence[Batch]:
        batches, assignment = [], self.positions
        for partition, most in wanted.items():
            if partition in self.positions:
                batches.append(self._read(partition, most))
        if not any(b.records for b in batches):
            await asyncio.sleep(0.002)
        else:
            await asyncio.sleep(0)
        return batches if self.positions is assignment else []

    def _read(self, partition: Partition, most: int) -> Batch:
        log, end = self.broker.logs[partition], self.broker.end(partition)
        at = self.positions[partition]
        if at > end:
            # Out of range: from the beginning, as aiokafka does.
            at = self.broker.starts.get(partition, 0)
        records = [r for r in log if r.offset >= at][:most]
        self.positions[partition] = records[-1].offset + 1 if records else max(at, end)
        return Batch(partition, records, self.positions[partition], end)

    async def commit(self, positions: Mapping[Partition, Position]) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.refusal is not None:
            raise self.refusal
        self.broker.check(positions)
        self.broker.commits.update(positions)
        self.broker.history.append(dict(positions))

    async def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, Position]:
        return {p: self.broker.commits[p] for p in partitions if p in self.broker.commits}

    def partitions(self) -> int:
        return max(self.count, len(self.positions))

    async def ends(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        return {p: self.broker.end(p) for p in partitions}


class FakeOffsets:
    """Offsets of groups without members, as registers use them."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.refusal: BaseException | None = None
        self.hang = False
        self.deaf = False
        self.writes = 0

    async def read(
        self, group: str, partitions: Collection[Partition]
    ) -> Mapping[Partition, Position]:
        await self._answer()
        if self.deaf:
            raise KafkaUnavailableError("nobody there")
        if ".handoff" not in group:
            return {p: self.broker.commits[p] for p in partitions if p in self.broker.commits}
        known = self.broker.registers
        return {p: known[group, p] for p in partitions if (group, p) in known}

    async def write(self, group: str, positions: Mapping[Partition, Position]) -> None:
        await self._answer()
        self.writes += 1
        if ".handoff" in group:
            assert all(len(p.metadata) <= 4096 for p in positions.values())
            self.broker.registers |= {(group, p): v for p, v in positions.items()}
            return
        if self.broker.members:
            raise KafkaUnavailableError("the group has members")
        self.broker.check(positions)
        self.broker.commits.update(positions)

    async def close(self) -> None:
        pass

    async def _answer(self) -> None:
        await asyncio.sleep(0)
        if self.hang:
            await asyncio.Event().wait()
        if self.refusal is not None:
            raise self.refusal


class FakeProducer:
    """Appends to the broker's `produced`; `failures` are raised first, topic by topic."""

    def __init__(self, broker: FakeBroker) -> None:
        self.broker = broker
        self.failing: dict[str, Exception] = {}
        self.dead = False
        self.limit = 1 << 30
        self.gate: asyncio.Event | None = None
        """Records are acknowledged when it is set."""
        self.stopped = False

    async def stop(self) -> None:
        self.stopped = True

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        partition: int | None = None,
    ) -> None:
        from flowbinding_worker.kafka.port import RecordTooLargeError

        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.dead:
            raise KafkaUnavailableError("dead")
        if topic in self.failing:
            raise self.failing[topic]
        if len(value or b"") + sum(len(v or b"") for _, v in headers) > self.limit:
            raise RecordTooLargeError("too large")
        self.broker.produced.append((topic, key, value, dict(headers)))
