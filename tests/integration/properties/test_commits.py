"""What is committed is done, and its result is written; nothing ever goes back."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from aiohttp import web

from integration.flow_server import Call, FlowServer
from integration.history import repeated, watching_commits
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, committed, lag, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)


async def test_the_commit_waits_for_the_head_and_then_jumps(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(1), await topic(1)
    released = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if call.input == "m0":
            await released.wait()
        return None

    flow.answer = answer
    spec = {
        "flow": flow.spec(),
        "output": {"topic": out, "value": "{{ result }}"},
        "concurrency": {"perReplica": 32, "ordering": "None"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, f"m{n}".encode()) for n in range(600)])
    async with (
        WorkerProcess(tmp_path, document) as worker,
        watching_commits(kafka.bootstrap, worker.group, lambda: flow.answered, out) as watch,
    ):

        async def all_but_the_head_are_told() -> bool:
            return await worker.highest_done() == 600

        await until(all_but_the_head_are_told)
        await until(lambda: watch.offsets == {0: 0})
        released.set()

        await worker.commits(600)
        assert await worker.terminate() == 0
    assert not repeated(flow.calls)
    assert len(await read_all(kafka.bootstrap, out)) == 600


@pytest.mark.parametrize("mode", ["Key", "Partition", "None"])
async def test_commits_never_pass_what_is_unfinished_while_workers_come_and_go(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer, mode: str
) -> None:
    source, out = await topic(6), await topic(1)
    draw = random.Random(3)

    async def answer(call: Call) -> web.Response | None:
        await asyncio.sleep(draw.uniform(0, 0.1 if mode == "Partition" else 0.5))
        return None

    flow.answer = answer
    spec = {
        "flow": flow.spec(timeoutSeconds=20),
        "output": {"topic": out, "value": "{{ result }}"},
        "concurrency": {"perReplica": 32, "ordering": mode},
    }
    document = manifest(kafka.bootstrap, source, spec)
    count = 0

    async def more(messages: int) -> None:
        nonlocal count
        numbers = range(count, count + messages)
        batch: list[Message] = [(f"k{n % 60}".encode(), f"m{n}".encode()) for n in numbers]
        count += await produce(kafka.bootstrap, source, batch)

    await more(500)
    group = document["spec"]["source"]["consumerGroup"]
    async with watching_commits(kafka.bootstrap, group, lambda: flow.answered, out):
        async with WorkerProcess(tmp_path, document) as first:
            await until(lambda: len(flow.answered) > 150)
            async with WorkerProcess(tmp_path, document, "worker-1") as second:

                async def both() -> bool:
                    # However long the second one takes to start, there is work for it.
                    await more(20)
                    return await second.metric('messages_total{outcome="succeeded"}') > 20

                await until(both)
                assert await first.terminate() == 0

                async def done() -> bool:
                    return await lag(kafka.bootstrap, group, source) == 0

                await until(done, 60)
                assert await second.terminate() == 0
        assert sum(o for o, _ in (await committed(kafka.bootstrap, group)).values()) == count
    assert not repeated(flow.calls)
    assert len(await read_all(kafka.bootstrap, out)) == count
