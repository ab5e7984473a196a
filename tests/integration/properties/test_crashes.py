"""kill -9: nothing is lost, and only what the last commit could not know of runs again."""

from __future__ import annotations

import asyncio
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from flowbinding_api.offsets import decode
from integration.flow_server import Call, FlowServer
from integration.history import Place, assert_serial, repeated, watching_commits
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, committed, evict, lag, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(240)

SINCE_COMMIT_SECONDS = 1.5
"""Commits follow each other after a second, and take their time on a busy machine."""


@dataclass(frozen=True)
class Load:
    """What the worker has to do when it is killed.

    Attributes:
        messages: How many, without the slow ones.
        partitions: With one slow message at the head of each.
        head_seconds: Duration of the slow ones.
        seconds: Duration of the others.
        slots: Runs in flight.
        evicted: Whether the dead member is taken out of the group, instead of waited for.
    """

    messages: int
    partitions: int
    head_seconds: float
    seconds: float
    slots: int
    evicted: bool


SMALL = Load(600, 6, 4, 0.2, 32, evicted=True)
FULL = Load(1500, 12, 20, 0.5, 100, evicted=False)


async def told_done(bootstrap: str, group: str, source: str) -> set[Place]:
    """What the commits call done."""
    done: set[Place] = set()
    for tp, (offset, metadata) in (await committed(bootstrap, group)).items():
        assert tp.topic == source
        progress = decode(offset, metadata).progress
        done |= {(tp.partition, o) for o in range(progress.hi_done) if o < offset}
        done |= {(tp.partition, o) for o in range(offset, progress.hi_done) if progress.is_done(o)}
    return done


@pytest.mark.parametrize(
    "load", [SMALL, pytest.param(FULL, marks=pytest.mark.slow)], ids=["small", "full"]
)
async def test_a_killed_worker_loses_nothing_and_repeats_little(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer, load: Load
) -> None:
    source, out = await topic(load.partitions), await topic(1)

    async def answer(call: Call) -> web.Response | None:
        await asyncio.sleep(load.head_seconds if call.input == "head" else load.seconds)
        return None

    flow.answer = answer
    spec = {
        "flow": flow.spec(),
        "output": {"topic": out, "value": "{{ result }}"},
        "concurrency": {"perReplica": load.slots},
    }
    document = manifest(kafka.bootstrap, source, spec)
    for number in range(load.partitions):
        await produce(kafka.bootstrap, source, [(f"h{number}".encode(), b"head")], partition=number)
    keys = load.messages // 4
    messages: list[Message] = [
        (f"k{n % keys}".encode(), f"m{n}".encode()) for n in range(load.messages)
    ]
    await produce(kafka.bootstrap, source, messages)
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: len(flow.answered) > load.messages // 2)
        await worker.kill()
        now = time.monotonic()
    before = list(flow.calls)
    in_flight = {call.place for call in before if call.end is None}
    since = now - SINCE_COMMIT_SECONDS
    lately = {call.place for call in before if call.end is not None and call.end > since}
    done = await told_done(kafka.bootstrap, worker.group, source)
    assert done, "it was killed after its first commit"
    if load.evicted:
        await evict(kafka.bootstrap, worker.group)
    # The server goes on with the calls of the dead.
    await until(lambda: flow.running == 0)
    async with WorkerProcess(tmp_path, document, "worker-1") as second:
        await second.works_off(source, 120)
        assert await second.terminate() == 0
    everything = {value for _, value in messages} | {b"head"}
    assert {r.value for r in await read_all(kafka.bootstrap, out)} == everything
    again = repeated(flow.calls)
    assert not again & done, "what a commit calls done has run again"
    assert again <= in_flight | lately
    # What runs again does so from where the commit stands, in order.
    for calls in (before, flow.calls[len(before) :]):
        assert_serial(calls, lambda call: call.session)


async def test_a_worker_that_stood_still_too_long_moves_nothing_back(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """It wakes with answers to calls that another one has made again meanwhile, and carries on."""
    source, out = await topic(4), await topic(1)
    woken = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if call.input.startswith("slow") and flow.inputs.count(call.input) == 1:
            await woken.wait()
        await asyncio.sleep(0.05)
        return None

    flow.answer = answer
    spec = {"flow": flow.spec(), "output": {"topic": out, "value": "{{ result }}"}}
    document = manifest(kafka.bootstrap, source, spec)
    messages: list[Message] = [
        (f"k{n % 40}".encode(), f"{'slow' if n < 8 else 'm'}{n}".encode()) for n in range(300)
    ]
    await produce(kafka.bootstrap, source, messages)
    group = document["spec"]["source"]["consumerGroup"]
    async with (
        watching_commits(kafka.bootstrap, group, lambda: flow.answered, out),
        WorkerProcess(tmp_path, document) as frozen,
    ):

        async def finished() -> bool:
            return await lag(kafka.bootstrap, group, source) == 0

        # All that waits for nobody is done, and told.
        await until(lambda: flow.running == 8 and len(flow.answered) > 100)
        frozen.process.send_signal(signal.SIGSTOP)
        await evict(kafka.bootstrap, group)
        async with WorkerProcess(tmp_path, document, "worker-1") as other:
            await until(finished, 60)
            woken.set()
            await until(lambda: flow.running == 0)
            frozen.process.send_signal(signal.SIGCONT)

            async def thrown_out() -> bool:
                return await frozen.metric("rebalances_total") >= 1

            await until(thrown_out)
            more: list[Message] = [(f"k{n}".encode(), f"m{n}".encode()) for n in range(300, 400)]
            await produce(kafka.bootstrap, source, more)
            await until(finished, 60)

            async def works_again() -> bool:
                found = await frozen.metric('messages_total{outcome="succeeded"}')
                return found > before

            before = await frozen.metric('messages_total{outcome="succeeded"}')
            await other.terminate()
            await produce(kafka.bootstrap, source, [(None, b"last")] * 8)
            await until(works_again)
        await until(finished, 60)
        assert await frozen.terminate() == 0
    written = {r.value for r in await read_all(kafka.bootstrap, out)}
    assert written == {value for _, value in [*messages, *more]} | {b"last"}
