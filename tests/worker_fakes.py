"""A worker on a Kafka and a flow in memory, for tests of its engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

from broker_fakes import P0, FakeBroker, FakeConsumer, FakeOffsets, FakeProducer
from flowbinding_api import FlowBinding, parse_binding
from flowbinding_api.offsets import Figures, decode
from flowbinding_worker.assembly import compose
from flowbinding_worker.control.flow_control import Call
from flowbinding_worker.delivery.queues import Delivery
from flowbinding_worker.delivery.spool import Stored, open_spool
from flowbinding_worker.engine import Engine, Stop
from flowbinding_worker.job import Job
from flowbinding_worker.kafka.port import MembershipLostError
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


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition to hold."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, not events
            await asyncio.sleep(0.005)


async def stopped(stop: Stop, task: asyncio.Task[Any]) -> None:
    """End an engine at once, whatever it is doing."""
    stop.ask()
    stop.ask()
    await asyncio.wait([task], timeout=10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


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
        await stopped(self.stop, self.task)

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
