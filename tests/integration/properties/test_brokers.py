"""Brokers that crash, coordinators that move, fetches that stop: the worker outlives them all."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from integration.flow_server import FlowServer
from integration.history import repeated, watching_commits
from integration.kafka_cluster import SECOND, two_brokers
from integration.kafka_proxy import FETCH, JOIN_GROUP, kafka_proxy
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, coordinator, create_topics, lag, produce, read_all
from testbed import KafkaBroker
from testbed.state import free_port

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


def numbered(first: int, count: int) -> list[Message]:
    return [(f"k{n % 80}".encode(), f"m{n}".encode()) for n in range(first, first + count)]


async def group_of(bootstrap: str, node: int) -> str:
    """A group that a certain broker coordinates."""
    while True:
        group = f"g-{uuid.uuid4().hex[:8]}"
        if await coordinator(bootstrap, group) == node:
            return group


async def test_coordinator_and_leaders_move_under_load(tmp_path: Path, flow: FlowServer) -> None:
    flow.seconds = 0.1
    async with two_brokers(tmp_path) as (first, second):
        bootstrap = first.bootstrap
        await create_topics(bootstrap, "in", partitions=6, replicas=2)
        await create_topics(bootstrap, "out", partitions=4, replicas=2)
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
            await asyncio.to_thread(second.start)
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
    async with kafka_proxy(free_port()) as proxy:
        properties = {"advertised.listeners": f"CLIENT://127.0.0.1:{proxy.port}"}
        broker = KafkaBroker(tmp_path / "own", properties=properties)
        proxy.target = broker.state.port("kafka")
        await asyncio.to_thread(broker.start)
        try:
            await create_topics(broker.bootstrap, "in", partitions=1)
            document = manifest(broker.bootstrap, "in", {"flow": flow.spec(timeoutSeconds=5)})
            client = "flowbinding-worker-0"
            await produce(broker.bootstrap, "in", numbered(0, 10))
            async with WorkerProcess(tmp_path, document) as worker:

                async def done() -> bool:
                    return await lag(broker.bootstrap, worker.group, "in") == 0

                await until(done)
                fetches = proxy.requests[FETCH, client]
                await until(lambda: proxy.requests[FETCH, client] > fetches + 2, what="it is idle")
                joined = proxy.requests[JOIN_GROUP, client]
                proxy.frozen = lambda number, name: (
                    (number, name) == (FETCH, client)
                    and proxy.requests[JOIN_GROUP, client] == joined
                )
                await produce(broker.bootstrap, "in", numbered(10, 10))
                await until(lambda: len(flow.answered) == 20, 150, "a new consumer reads on")
                assert proxy.requests[JOIN_GROUP, client] > joined
                await until(done)
                assert (await worker.get("/livez"))[0] == 200
                assert await worker.terminate() == 0
        finally:
            await asyncio.to_thread(broker.stop)
    assert not repeated(flow.calls)
