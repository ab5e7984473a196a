"""Two more measurements of the worker: how soon it begins, and its memory over a long backlog."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from aiokafka import AIOKafkaProducer

import kafkaio
from worker.cases import PARTITIONS, Case, Ordering, System
from worker.measure import percentile
from worker.runner import BROKER_TIME, Bench, messages, produce

BACKLOG_BYTES = 1024
BACKLOG_PATTERN = "0.001"
LATENCY_PATTERN = "0.02"
_CASE = Case(System.WORKER, LATENCY_PATTERN, 100, Ordering.NONE, 0)


@dataclass(frozen=True, slots=True)
class Latency:
    """From the append of a message to the start of its call, on a worker with nothing else to do.

    Attributes:
        count: Messages.
        p50: Seconds.
        p99: Seconds.
        most: Seconds.
    """

    count: int
    p50: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """Memory while a backlog is worked off.

    Attributes:
        count: Messages of 1 KiB.
        rate: Completions per second.
        early: Resident bytes when a tenth was done.
        late: The most resident bytes in the second half.
        peak: The most resident bytes at all.
    """

    count: int
    rate: float
    early: int
    late: int
    peak: int


async def latency(bench: Bench, count: int) -> Latency:
    """Send single messages, about 100 ms apart, and ask the flow server when it saw them."""
    topic = f"single-{uuid.uuid4().hex[:8]}"
    await kafkaio.create_topics(bench.bootstrap, topic, partitions=PARTITIONS, config=BROKER_TIME)
    producer = AIOKafkaProducer(bootstrap_servers=bench.bootstrap, acks="all")
    await producer.start()
    draw = Random(1)
    appended: dict[str, float] = {}
    try:
        async with bench.running(_CASE, topic, LATENCY_PATTERN) as test:
            await test.ready()
            for key, value in messages(count, size=256):
                sent = await producer.send_and_wait(topic, value, key=key)
                appended[f"{topic}-{sent.partition}-{sent.offset}"] = sent.timestamp / 1000
                await asyncio.sleep(0.05 + draw.random() / 10)
            while (started := (await test.stats())["started"]).keys() < appended.keys():
                await test.sample_later()
    finally:
        await producer.stop()
    waits = [started[name] - at for name, at in appended.items()]
    return Latency(count, percentile(waits, 0.5), percentile(waits, 0.99), max(waits))


async def backlog(bench: Bench, count: int, note: Callable[[str], object]) -> Backlog:
    """Let the worker work off `count` messages of 1 KiB."""
    topic = f"backlog-{uuid.uuid4().hex[:8]}"
    await kafkaio.create_topics(bench.bootstrap, topic, partitions=PARTITIONS)
    made = messages(count, BACKLOG_BYTES)
    await produce(bench.bootstrap, topic, made, lambda sent: note(f"{sent:,} produced"))
    async with bench.running(_CASE, topic, BACKLOG_PATTERN) as test:
        samples = [await test.sample()]
        while samples[-1].done < count:
            samples.append(await test.sample_later())
            note(f"{samples[-1].done:,} of {count:,} done")
        peak = test.peak()
    await kafkaio.delete_topics(bench.bootstrap, topic)
    working = [s for s in samples if s.done]
    return Backlog(
        count,
        rate=(working[-1].done - working[0].done) / (working[-1].at - working[0].at),
        early=next(s.rss for s in samples if s.done >= count / 10),
        late=max(s.rss for s in samples if s.done >= count / 2),
        peak=peak,
    )
