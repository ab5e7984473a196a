"""Brokers that crash, coordinators that move, fetches that stop: the worker outlives them all."""

from __future__ import annotations

import asyncio
import time
import uuid
from array import array
from pathlib import Path

import pytest

from flowbinding_cli import unacknowledged
from flowbinding_cli.produce import Pace, Written, send
from integration.flow_server import FlowServer
from integration.history import repeated, watching_commits
from integration.kafka_cluster import SECOND, two_brokers
from integration.kafka_proxy import FETCH, JOIN_GROUP, proxied_broker
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, coordinator, create_topics, lag, produce, read_all

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


def numbered(first: int, count: int) -> list[Message]:
    return [(f"k{n % 80}".encode(), f"m{n}".encode()) for n in range(first, first + count)]


async def group_of(bootstrap: str, node: int) -> str:
    """A group that a certain broker coordinates."""
    while True:
        group = f"g-{uuid.uuid4().hex[:8]}"
        if await coordinator(bootstrap, group) == node:
            return group


async def sent_to(topic: str, bootstrap: str) -> Written:
    """Send a message as `flowbinding produce` does."""
    pace = Pace(None, time.monotonic, asyncio.sleep)
    kafka = {"bootstrap_servers": bootstrap}
    return await send(kafka, topic, [(None, b"x")], [], pace, lambda _done: None)


async def test_coordinator_and_leaders_move_under_load(
    tmp_path: Path,
    flow: FlowServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unacknowledged, "SLOW_SECONDS", 0.5)
    flow.seconds = 0.1
    async with two_brokers(tmp_path) as (first, second):
        bootstrap = first.bootstrap
        await create_topics(bootstrap, "in", partitions=6, replicas=2)
        await create_topics(bootstrap, "out", partitions=4, replicas=2)
        both = {"min.insync.replicas": "2"}
        await create_topics(bootstrap, "careful", partitions=1, replicas=2, config=both)
        group = await group_of(bootstrap, SECOND)
        spec = {
            "source": {"consumerGroup": group},
            "flow": flow.spec(timeoutSeconds=20),
            "output": {"topic": "out", "value": "{{ result }}"},
            "concurrency": {"perReplica": 32},
        }
        document = manifest(bootstrap, "in", spec)
        await produce(bootstrap, "in", numbered(0, 2000))
        async with WorkerProcess(tmp_path, document) as worker:
            await until(lambda: len(flow.answered) > 300)
            await asyncio.to_thread(second.kill)
            await until(lambda: len(flow.answered) == 2000, 60, "it goes on with one broker")

            async def done() -> bool:
                return await lag(bootstrap, group, "in") == 0

            await until(done, 60, "and commits with the new coordinator")
            assert await coordinator(bootstrap, group) != SECOND
            sent = asyncio.create_task(sent_to("careful", bootstrap))
            told = "too few replicas are in sync in partition 0 (min.insync.replicas is 2); trying"
            await until(lambda: told in capsys.readouterr().err, 30, "`produce` says what it lacks")
            await asyncio.to_thread(second.start)
            assert await sent == {0: array("q", [0])}
            await produce(bootstrap, "in", numbered(2000, 500))
            async with watching_commits(bootstrap, group, lambda: flow.answered, "out"):
                await until(lambda: len(flow.answered) == 2500, 60, "it goes on with both")
                await until(done, 60)
            assert await worker.terminate() == 0
        results = await read_all(bootstrap, "out")
        assert {r.value for r in results} == {value for _, value in numbered(0, 2500)}
        assert not repeated(flow.calls)


async def test_fetches_that_bring_nothing_more_end_with_a_new_consumer(
    tmp_path: Path, flow: FlowServer
) -> None:
    """As after aiokafka's known faults: it fetches without an error, and nothing comes."""
    async with proxied_broker(tmp_path / "own") as (proxy, broker):
        await create_topics(broker.bootstrap, "in", partitions=1)
        document = manifest(broker.bootstrap, "in", {"flow": flow.spec(timeoutSeconds=5)})
        client = "flowbinding-worker-0"
        await produce(broker.bootstrap, "in", numbered(0, 10))
        async with WorkerProcess(tmp_path, document) as worker:
            await worker.works_off("in")
            fetches = proxy.requests[FETCH, client]
            await until(lambda: proxy.requests[FETCH, client] > fetches + 2, what="it is idle")
            joined = proxy.requests[JOIN_GROUP, client]
            proxy.frozen = lambda number, name: (
                (number, name) == (FETCH, client) and proxy.requests[JOIN_GROUP, client] == joined
            )
            await produce(broker.bootstrap, "in", numbered(10, 10))
            await until(lambda: len(flow.answered) == 20, 150, "a new consumer reads on")
            assert proxy.requests[JOIN_GROUP, client] > joined
            await worker.works_off("in")
            assert (await worker.get("/livez"))[0] == 200
            assert await worker.terminate() == 0
    assert not repeated(flow.calls)
