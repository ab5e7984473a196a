"""Calls that last: the group stays as it is, and the time limit is the one that was set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from integration.flow_server import Call, FlowServer
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import TopicFactory, members, produce, read_until
from testbed import KafkaBroker


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_a_call_of_a_minute_with_defaults_moves_nothing(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """As long as the default time limit lets it, with a partition that has nothing else to do."""
    source = await topic(2)

    async def answer(call: Call) -> web.Response | None:
        await asyncio.sleep(58 if call.input == "long" else 0.05)
        return None

    flow.answer = answer
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, [(b"a", b"long")], partition=0)
    await produce(
        kafka.bootstrap,
        source,
        [(f"k{n}".encode(), f"m{n}".encode()) for n in range(300)],
        partition=1,
    )
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: len(flow.answered) == 300)
        before = await members(kafka.bootstrap, worker.group)

        await worker.commits(301, 90)
        assert await members(kafka.bootstrap, worker.group) == before
        assert await worker.metric("rebalances_total") == 0
        assert await worker.terminate() == 0
    assert len(flow.calls) == 301


@pytest.mark.timeout(90)
async def test_the_time_limit_is_the_one_that_was_set(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """Longer than the five seconds that httpx waits by default."""
    source, dead = await topic(1), await topic(1)
    over = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if call.input == "never" or (call.input == "late" and flow.inputs.count("late") == 1):
            await over.wait()
        return None

    flow.answer = answer
    spec = {
        "flow": flow.spec(timeoutSeconds=7),
        "deadLetter": {"topic": dead},
        "retry": {"maxAttempts": 2},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(b"a", b"never"), (b"b", b"late"), (b"a", b"next")])
    async with WorkerProcess(tmp_path, document) as worker:
        [letter] = await read_until(kafka.bootstrap, dead, 1)

        await worker.commits(3)
        assert await worker.terminate() == 0
    over.set()
    assert letter.value == b"never"
    first, second = (call for call in flow.calls if call.input == "never")
    # The server sees calls a little later than they begin, the first perhaps more so.
    assert second.start - first.start > 6
    assert sorted(flow.inputs) == ["late", "late", "never", "never", "next"]
