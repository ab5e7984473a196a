"""Runs one case: a flow server, one process under test, and what was seen of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

import kafkaio
import proc
from testbed.paths import PROJECT
from worker.cases import KEYS, PARTITIONS, Case
from worker.measure import Sample, cpu_per_message, steady_rate
from worker.systems import Place, Program, program

ANSWER = PROJECT / "tests" / "data" / "langflow" / "run-echo-by-id.json"
START_SECONDS = 60.0
SAMPLE_SECONDS = 0.2
CHUNK = 10_000
BROKER_TIME = {"message.timestamp.type": "LogAppendTime"}
"""The broker's clock tells when a record came in, whoever wrote it."""


class BenchError(Exception):
    """A case could not be measured."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a case came to.

    Attributes:
        case: The case.
        rate: Completions per second in steady state.
        cpu: CPU seconds per message.
        peak: The most resident memory, in bytes.
        service: Mean seconds that the flow server took for a call.
    """

    case: Case
    rate: float
    cpu: float
    peak: int
    service: float

    @property
    def efficiency(self) -> float:
        """Share of what the slots allow."""
        return self.rate / self.case.ideal


class Bench:
    """A broker with a topic of messages, shared by all cases: each has a consumer group of its own.

    Args:
        bootstrap: The broker.
        folder: For files and logs.
    """

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self.topic = f"bench-{uuid.uuid4().hex[:8]}"

    async def fill(self, count: int) -> None:
        """Produce the messages of the shared topic."""
        await kafkaio.create_topics(self.bootstrap, self.topic, partitions=PARTITIONS)
        await produce(self.bootstrap, self.topic, messages(count, size=256))

    async def run(self, case: Case, profile: Path | None = None) -> Result:
        """Measure one case.

        Raises:
            BenchError: When there was nothing to measure; says why.
        """
        seconds = case.ramp + case.window
        async with self.running(case, self.topic, case.pattern, profile) as test:
            samples = [await test.sample()]
            deadline = time.time() + START_SECONDS
            while not samples[-1].done:
                if time.time() > deadline:
                    raise BenchError("nothing was completed")
                samples.append(await test.sample_later())
            began = samples[-1].at
            while samples[-1].at < began + seconds + case.seconds:
                samples.append(await test.sample_later())
            peak = test.peak()
            service = (await test.stats())["mean"]
            await test.stop(signal.SIGTERM if profile else signal.SIGKILL)
            times = await test.completions()
        try:
            rate = steady_rate(times, case.ramp, case.window, case.wave)
            cpu = cpu_per_message(samples, times[0] + case.ramp, times[0] + seconds)
        except ValueError as error:
            raise BenchError(f"{error} ({len(times)} in all)") from error
        return Result(case, rate, cpu, peak, service)

    @asynccontextmanager
    async def running(
        self, case: Case, topic: str, pattern: str, profile: Path | None = None
    ) -> AsyncIterator[UnderTest]:
        """One process of the case's system, reading `topic` from its beginning."""
        output, group = f"out-{uuid.uuid4().hex[:8]}", f"g-{uuid.uuid4().hex[:8]}"
        async with AsyncExitStack() as stack:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            server = await stack.enter_async_context(flow_server(folder, pattern))
            await kafkaio.create_topics(self.bootstrap, output, config=BROKER_TIME)
            stack.push_async_callback(kafkaio.delete_topics, self.bootstrap, output)
            place = Place(folder, self.bootstrap, topic, output, group, server)
            started = program(case, place, profile)
            log = folder / "log"
            process = await stack.enter_async_context(_process(started, log))
            reader = await stack.enter_async_context(kafkaio.reader(self.bootstrap, output))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            yield UnderTest(process, started, place, log, reader, http)


class UnderTest:
    """A running process, and what it has written."""

    def __init__(
        self,
        process: Process,
        started: Program,
        place: Place,
        log: Path,
        reader: AIOKafkaConsumer,
        http: aiohttp.ClientSession,
    ) -> None:
        self.place = place
        self._process = process
        self._started = started
        self._log = log
        self._reader = reader
        self._http = http

    async def ready(self) -> None:
        """Wait until it says that it works."""
        async with asyncio.timeout(START_SECONDS):
            while not await self._healthy():  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(SAMPLE_SECONDS)

    async def sample(self) -> Sample:
        """Look at it now.

        Raises:
            BenchError: It has ended.
        """
        ends = await self._reader.end_offsets(list(self._reader.assignment()))
        pid = self._process.pid
        try:
            cpu, rss = proc.cpu_seconds(pid), proc.rss_bytes(pid)
        except (FileNotFoundError, ProcessLookupError):
            code = await self._process.wait()
            raise BenchError(f"it ended with {code}:\n{self._said()}") from None
        return Sample(time.time(), sum(ends.values()), cpu, rss)

    async def sample_later(self) -> Sample:
        """Look at it in a while."""
        await asyncio.sleep(SAMPLE_SECONDS)
        return await self.sample()

    def peak(self) -> int:
        """The most memory that it has used, in bytes."""
        return proc.peak_bytes(self._process.pid)

    async def stats(self) -> dict[str, Any]:
        """What the flow server counted."""
        async with self._http.get(f"{self.place.server}/stats") as response:
            found: dict[str, Any] = json.loads(await response.read())
            return found

    async def stop(self, how: signal.Signals) -> None:
        """End it: nothing is measured any more.

        Raises:
            BenchError: It does not end.
        """
        self._process.send_signal(how)
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._process.wait()
        except TimeoutError:
            raise BenchError(f"it does not end:\n{self._said()}") from None

    async def completions(self) -> list[float]:
        """When each result came in, in order."""
        records = await kafkaio.read_all(self.place.bootstrap, self.place.output)
        return sorted(record.timestamp / 1000 for record in records)

    async def _healthy(self) -> bool:
        try:
            async with self._http.get(self._started.health) as response:
                return response.status == 200
        except aiohttp.ClientConnectionError:
            return False

    def _said(self) -> str:
        return self._log.read_text()[-2000:]


@asynccontextmanager
async def flow_server(folder: Path, pattern: str) -> AsyncIterator[str]:
    """The stand-in as a process of its own; gives its URL."""
    answer = folder / "answer.json"
    answer.write_text(json.dumps(json.loads(ANSWER.read_text())["response"]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker.server", str(answer), pattern, stdout=PIPE
    )
    try:
        assert process.stdout is not None
        port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        await _kill(process)


@asynccontextmanager
async def _process(started: Program, log: Path) -> AsyncIterator[Process]:
    with log.open("ab") as out:
        process = await asyncio.create_subprocess_exec(
            *started.command, stdin=DEVNULL, stdout=out, stderr=out, env=dict(started.env)
        )
    try:
        yield process
    finally:
        await _kill(process)


async def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def messages(count: int, size: int) -> Iterable[tuple[bytes, bytes]]:
    """Messages of about `size` bytes with random ones of the keys."""
    draw = Random(1)
    filler = "x" * max(0, size - 40)
    for number in range(count):
        value = {"id": number, "text": f"document {number} {filler}"}
        yield f"customer-{draw.randrange(KEYS)}".encode(), json.dumps(value).encode()


async def produce(
    bootstrap: str,
    topic: str,
    records: Iterable[tuple[bytes, bytes]],
    note: Callable[[int], object] = lambda _: None,
) -> None:
    """Send them, some thousands at a time so that a million do not fill the memory."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", linger_ms=5, max_batch_size=256 * 1024
    )
    await producer.start()
    try:
        pending: list[Awaitable[Any]] = []
        sent = 0
        for key, value in records:
            pending.append(await producer.send(topic, value, key=key))
            if len(pending) >= CHUNK:
                await asyncio.gather(*pending)
                sent += len(pending)
                note(sent)
                pending.clear()
        await asyncio.gather(*pending)
    finally:
        await producer.stop()
