"""Order by key, by partition, and none; with retries, and over several workers."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from pathlib import Path

import pytest
from aiohttp import web

from integration.flow_server import Call, FlowServer, refused
from integration.history import assert_serial, repeated
from integration.worker_process import WorkerProcess, manifest
from kafkaio import TopicFactory, produce
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)

PARTITIONS, SLOTS = 6, 32


def overlap(calls: list[Call]) -> bool:
    """Whether any two of them ran at once."""
    ordered = sorted(calls, key=lambda call: call.start)
    pairs = itertools.pairwise(ordered)
    return any(earlier.end and later.start < earlier.end for earlier, later in pairs)


async def run(kafka: KafkaBroker, source: str, folder: Path, flow: FlowServer, mode: str) -> None:
    """Work everything off with one worker."""
    spec = {"flow": flow.spec(), "concurrency": {"perReplica": SLOTS, "ordering": mode}}
    async with WorkerProcess(folder, manifest(kafka.bootstrap, source, spec)) as worker:
        await worker.works_off(source, 60)
        assert await worker.terminate() == 0


@pytest.mark.parametrize("retried", [False, True], ids=["smoothly", "with retries"])
@pytest.mark.parametrize("mode", ["Key", "Partition"])
async def test_messages_of_a_chain_neither_overlap_nor_overtake(
    kafka: KafkaBroker,
    topic: TopicFactory,
    tmp_path: Path,
    flow: FlowServer,
    mode: str,
    retried: bool,
) -> None:
    source = await topic(PARTITIONS)
    draw = random.Random(7)
    longest = 0.5 if mode == "Key" else 0.1
    count = 300 if mode == "Key" else 200

    async def answer(call: Call) -> web.Response | None:
        await asyncio.sleep(draw.uniform(0, longest))
        failing = retried and int(call.input[1:]) % 21 == 0
        if failing and flow.inputs.count(call.input) <= 2:
            return refused(503, "not now")
        return None

    flow.answer = answer
    messages = [(f"k{n % 50}".encode(), f"m{n}".encode()) for n in range(count)]
    await produce(kafka.bootstrap, source, messages)
    await run(kafka, source, tmp_path, flow, mode)
    by_key = mode == "Key"
    assert_serial(flow.calls, lambda call: call.session if by_key else call.place[0])
    assert overlap(flow.calls), "chains run side by side"
    assert len(flow.answered) == count
    times = Counter(flow.inputs)
    for number in range(count):
        assert times[f"m{number}"] == (3 if retried and number % 21 == 0 else 1)


async def test_while_a_message_waits_for_its_retry_the_other_keys_go_on(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)

    async def answer(call: Call) -> web.Response | None:
        # It asks for more time until all others are done: then nothing but its own key waits.
        if call.input == "m0" and len(flow.answered) < 90:
            return refused(429, "not now", **{"Retry-After": "1"})
        return None

    flow.answer = answer
    await produce(
        kafka.bootstrap,
        source,
        [(f"k{n % 10}".encode(), f"m{n}".encode()) for n in range(100)],
    )
    await run(kafka, source, tmp_path, flow, "Key")
    first = next(n for n, call in enumerate(flow.calls) if call.input == "m0" and call.ok)
    assert {c.input for c in flow.calls[first + 1 :]} == {f"m{n}" for n in range(10, 100, 10)}
    assert_serial(flow.calls, lambda call: call.session)


def wait_for_all_slots(flow: FlowServer) -> None:
    """No call ends before there are as many as the worker has slots."""
    everyone = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if flow.running == SLOTS:
            everyone.set()
        await everyone.wait()
        return None

    flow.answer = answer


async def test_without_order_one_partition_fills_every_slot(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    wait_for_all_slots(flow)
    # One key, and none: neither holds anything up.
    keys = [b"k", None]
    await produce(
        kafka.bootstrap, source, [(keys[n % 2], f"m{n}".encode()) for n in range(4 * SLOTS)]
    )
    await run(kafka, source, tmp_path, flow, "None")
    assert flow.most == SLOTS
    assert not repeated(flow.calls)


async def test_messages_without_a_key_have_no_order(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    wait_for_all_slots(flow)
    await produce(kafka.bootstrap, source, [(None, f"m{n}".encode()) for n in range(2 * SLOTS)])
    await run(kafka, source, tmp_path, flow, "Key")
    assert flow.most == SLOTS
