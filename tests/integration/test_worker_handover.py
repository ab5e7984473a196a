"""Real workers on a real broker hand running calls to each other when partitions move."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.admin import CreateAclsRequest

from integration.flow_server import Call, FlowServer
from integration.history import assert_serial, repeated
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, create_topics, lag, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)

GROUP, LITERAL, ALL, DENY = 3, 3, 2, 2
"""Numbers in Kafka's protocol: a resource type, a pattern type, an operation, a permission."""


PACE = 20
"""Messages a second."""


def numbered(number: int, keys: int) -> Message:
    return f"k{number % keys}".encode(), f"{number % keys} m{number}".encode()


def key_of(call: Call) -> str:
    return call.input.split()[0]


def events(worker: WorkerProcess, name: str) -> Iterator[dict[str, Any]]:
    """Lines of a worker's log."""
    for line in worker.log.read_text().splitlines():
        if line.startswith("{") and (entry := json.loads(line))["event"] == name:
            yield entry


@dataclass
class Feed:
    """Produces numbered messages at a steady pace, until it is told to stop."""

    keys: int
    count: int = 0

    async def run(self, bootstrap: str, topic: str) -> None:
        while True:
            numbers = range(self.count, self.count + PACE)
            await produce(bootstrap, topic, (numbered(n, self.keys) for n in numbers))
            self.count += PACE
            await asyncio.sleep(1)


async def test_workers_come_and_go_under_load_and_no_call_is_repeated_or_waited_for(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(12), await topic(1)
    released = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if key_of(call) == "0":
            await released.wait()
        await asyncio.sleep(0.5 + int(key_of(call)) % 3)
        return None

    async def goes_on(worker: WorkerProcess) -> None:
        """It runs something, and the others do, while calls of long before still run."""
        await until(lambda: served(worker))
        before = len(flow.calls)
        await until(lambda: len(flow.calls) > before + 20, what="others start")
        assert flow.calls[0].end is None

    async def served(worker: WorkerProcess) -> bool:
        return await worker.metric("in_flight") > 0

    flow.answer = answer
    spec = {
        "flow": flow.spec(),
        "output": {"topic": out, "value": "{{ result }}"},
        "concurrency": {"perReplica": 30},
    }
    document = manifest(kafka.bootstrap, source, spec)
    feed = Feed(keys=60)
    await produce(kafka.bootstrap, source, [(b"k0", b"0 first")])
    first, second, third = (
        WorkerProcess(tmp_path, document, f"worker-{number}") for number in range(3)
    )
    async with first:
        await until(lambda: flow.running == 1)
        feeding = asyncio.create_task(feed.run(kafka.bootstrap, source))
        await goes_on(first)
        async with second:
            await goes_on(second)
            async with third:
                await goes_on(third)
                leaving = asyncio.create_task(third.terminate())
                await goes_on(second)
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)
                released.set()
                assert await leaving == 0
            assert await second.terminate() == 0

        async def done() -> bool:
            return await lag(kafka.bootstrap, first.group, source) == 0

        await until(done, 60)
        assert await first.terminate() == 0
    moves = [e for w in (first, second, third) for e in events(w, "partitions revoked")]
    handed = sum(move["handed_over"] for move in moves)
    starts = sorted(call.start for call in flow.calls)
    gap = max(later - earlier for earlier, later in itertools.pairwise(starts))
    longest = max(move["seconds"] for move in moves)
    print(f"handed over {handed}; longest revocation {longest:.3f} s; longest gap {gap:.2f} s")
    assert not repeated(flow.calls)
    assert_serial(flow.calls, key_of)
    results = await read_all(kafka.bootstrap, out)
    assert len(results) == len({r.value for r in results}) == len(flow.calls) >= feed.count + 1
    assert handed > 0


async def test_messages_of_a_worker_that_dies_after_handing_over_run_after_its_lease(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(2), await topic(1)
    stuck = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if flow.inputs.count(call.input) == 1 and call.input.startswith("slow"):
            await stuck.wait()
        return None

    flow.answer = answer
    spec = {"flow": flow.spec(), "output": {"topic": out, "value": "{{ result }}"}}
    document = manifest(kafka.bootstrap, source, spec)
    for number in range(2):
        await produce(kafka.bootstrap, source, [(b"a", b"slow%d" % number)], partition=number)
    async with WorkerProcess(tmp_path, document) as first:
        await until(lambda: flow.running == 2)
        async with WorkerProcess(tmp_path, document, "worker-1") as second:

            async def held() -> bool:
                return await second.metric("held") == 1

            await until(held)
            await first.kill()
            await until(lambda: len(flow.calls) == 3, 30, "its message runs after the lease")
            assert await second.metric('handovers_total{outcome="TakenOver"}') == 1
            await until(lambda: flow.running == 2)
            stuck.set()
            assert await second.terminate() == 0
    assert len(await read_all(kafka.bootstrap, out)) == 1


async def test_a_sole_worker_that_ends_leaves_the_group_at_once_and_no_lag(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(2)
    flow.seconds = 4.0
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, [numbered(n, 8) for n in range(8)])
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: flow.running == 8)
        assert await worker.terminate() == 0
        [stopped] = events(worker, "stopped")
        assert stopped["left_at_once"]
        assert await lag(kafka.bootstrap, worker.group, source) == 0
    assert not repeated(flow.calls)


async def test_what_may_not_be_handed_over_is_waited_for(tmp_path: Path, flow: FlowServer) -> None:
    """As it is for a user who may use the consumer group and no other."""
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with KafkaBroker(tmp_path / "own", properties=properties) as broker:
        await create_topics(broker.bootstrap, "in", partitions=4)
        flow.seconds = 3.0
        document = manifest(broker.bootstrap, "in", {"flow": flow.spec()})
        async with WorkerProcess(tmp_path, document) as first:
            for lane in ("", "-1", "-2", "-3"):
                await deny(broker.bootstrap, f"{first.group}.handoff{lane}")
            await produce(broker.bootstrap, "in", [numbered(n, 40) for n in range(40)])
            await until(lambda: flow.running == 10)
            async with WorkerProcess(tmp_path, document, "worker-1") as second:

                async def done() -> bool:
                    return await lag(broker.bootstrap, first.group, "in") == 0

                await until(done, 60)
                assert await first.metric('handovers_total{outcome="Waited"}') > 0
                assert await first.metric('handovers_total{outcome="HandedOver"}') == 0
                assert await second.metric('messages_total{outcome="succeeded"}') > 0
                assert await second.terminate() == 0
                assert await first.terminate() == 0
    assert not repeated(flow.calls)


async def deny(bootstrap: str, group: str) -> None:
    """Keep everybody from a consumer group."""
    client = AIOKafkaClient(bootstrap_servers=bootstrap)
    await client.bootstrap()
    try:
        request = CreateAclsRequest(GROUP, group, LITERAL, "User:*", "*", ALL, DENY)
        answer = await client.send(client.get_random_node(), request)
        assert all(code == 0 for code, *_ in answer.creation_responses), answer
    finally:
        await client.close()
