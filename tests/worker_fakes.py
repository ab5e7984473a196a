"""Kafka and a flow in memory, for tests of the worker's engine."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from flowbinding_api import FlowBinding, parse_binding
from flowbinding_api.offsets import Figures, decode
from flowbinding_worker.assembly import compose
from flowbinding_worker.control.flow_control import Call
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Stored, open_spool
from flowbinding_worker.engine import Engine, Stop
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import (
    Batch,
    Headers,
    KafkaUnavailableError,
    MembershipLostError,
    Position,
    Rebalances,
)
from flowbinding_worker.metrics import Metrics
from flowbinding_worker.payload import Payload
from flowbinding_worker.ports import (
    Failure,
    FlowRequest,
    FlowResult,
    Partition,
    ProcessingError,
    Record,
    Stage,
)
from flowbinding_worker.processing import Outcome, Processor, Reader
from manifests import manifest, merge

P0, P1 = Partition("in", 0), Partition("in", 1)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition to hold."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, not events
            await asyncio.sleep(0.005)


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


@dataclass
class Run:
    """One call of the flow."""

    input: str
    start: float
    end: float | None = None


class FakeFlow:
    """Answers through `answer`, and remembers its calls."""

    def __init__(self, answer: Callable[[FlowRequest], Awaitable[Any]] | None = None) -> None:
        self.answer = answer
        self.calls: list[Run] = []
        self.running = 0
        self.most = 0
        self.start_error: Exception | None = None
        self.closed = False

    @property
    def inputs(self) -> list[str]:
        return [call.input for call in self.calls]

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error

    async def run(self, request: FlowRequest) -> FlowResult:
        call = Run(request.input, time.monotonic())
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            value = await self.answer(request) if self.answer else request.input
        finally:
            self.running -= 1
            call.end = time.monotonic()
        return value if isinstance(value, FlowResult) else FlowResult(value)

    async def close(self) -> None:
        self.closed = True


class Watched:
    """A processor that notes which messages are finished, apart from the worker's own books."""

    def __init__(self, inner: Processor, finished: set[Record]) -> None:
        self._inner = inner
        self._finished = finished

    async def begin(self, job: Job, call: Call) -> Outcome | Delivery:
        begun = await self._inner.begin(job, call)
        if isinstance(begun, Delivery):
            begun.done.add_done_callback(partial(self._delivered, job))
        else:
            self._finished.add(job.record)
        return begun

    def _delivered(self, job: Job, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._finished.add(job.record)

    async def bury(self, job: Job, error: ProcessingError) -> Outcome:
        outcome = await self._inner.bury(job, error)
        self._finished.add(job.record)
        return outcome

    async def deliver(self, job: Job, stored: Stored) -> Outcome:
        outcome = await self._inner.deliver(job, stored)
        self._finished.add(job.record)
        return outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Worker:
    """An engine on fakes, run as a task."""

    def __init__(
        self, broker: FakeBroker, flow: FakeFlow, spec: Mapping[str, Any] | None = None
    ) -> None:
        self.binding = binding(spec)
        self.broker = broker
        self.flow = flow
        self.consumer = FakeConsumer(broker)
        self.producer = FakeProducer(broker)
        self.offsets = FakeOffsets(broker)
        self.metrics = Metrics()
        self.spool: Path | None = None
        """Directory in which results may wait."""
        self.reader: Reader | None = None
        self.engine: Engine
        self.stop: Stop
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        spool = None
        if self.spool is not None:
            output = self.binding.spec.output
            room = output.spool.bytes if output else 1 << 28
            group, broken = self.binding.consumer_group, self.metrics.spool_broken.inc
            spool = open_spool(self.spool, group, room, broken)
        self.engine, self.stop = compose(
            self.binding,
            "worker-0",
            self.metrics,
            flow=self.flow,
            payload=Payload(self.binding),
            consumer=self.consumer,
            producer=self.producer,
            offsets=self.offsets,
            spool=spool,
            reader=self.reader,
        )
        work = self.engine._parts.work
        watched = cast(Processor, Watched(work._processor, self.broker.finished))
        work._processor = work.slots._processor = watched
        self.task = asyncio.create_task(self.engine.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.ask()
        self.stop.ask()
        await asyncio.wait([self.task], timeout=10)
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def end(self) -> None:
        """SIGTERM, and wait for the end."""
        self.stop.ask()
        await asyncio.wait_for(asyncio.shield(self.task), 10)

    async def die(self) -> None:
        """SIGKILL: nothing is said to anybody."""
        self.consumer.refusal = MembershipLostError("dead")
        self.producer.dead = True
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task is self.task:
                task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    @property
    def committed(self) -> int:
        known = self.broker.commits.get(Partition("in", 0))
        return known.offset if known else -1

    def count(self, text: str) -> float:
        """The value of a metric, by the beginning of its line."""
        for line in self.metrics.render().decode().splitlines():
            if line.startswith(f"flowbinding_worker_{text} "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


def binding(spec: Mapping[str, Any] | None = None) -> FlowBinding:
    """A binding with an output, quick retries, and `spec` merged into it."""
    base: dict[str, Any] = {
        "kafka": {"bootstrapServers": "nowhere:9092"},
        "output": {"topic": "out", "value": "{{ result }}"},
        "retry": {"initialBackoffSeconds": 0.01, "maxBackoffSeconds": 0.02, "maxAttempts": 3},
    }
    return parse_binding(merge(manifest(**base), {"spec": spec or {}}))


def texts(*numbers: int, key: bytes | None = None) -> list[tuple[bytes | None, bytes | None]]:
    return [(key, f"m{n}".encode()) for n in numbers]


def refuse(failure: Failure, status: int | None = None, *, ran: bool = False) -> ProcessingError:
    return ProcessingError(
        "the flow says no",
        failure=failure,
        stage=Stage.CALL,
        reason="FlowUnauthorized" if failure is Failure.CONFIGURATION else "FlowFailing",
        status=status,
        ran=ran,
        response="because",
    )


class Gate:
    """Lets chosen inputs wait until they are released."""

    def __init__(self, *waiting: str) -> None:
        self.events = {text: asyncio.Event() for text in waiting}

    async def __call__(self, request: FlowRequest) -> str:
        if request.input in self.events:
            await self.events[request.input].wait()
        return request.input


def figures(broker: FakeBroker, partition: Partition = P0) -> Figures:
    position = broker.commits[partition]
    found = decode(position.offset, position.metadata).figures
    assert found is not None
    return found
