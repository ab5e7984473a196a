"""The real worker on a real broker: nothing lost, nothing repeated without need, order kept."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from pathlib import Path

import pytest
from aiohttp import web

from integration.flow_server import Call, FlowServer
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, create_topics, lag, produce, read_all, read_until
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(180)


def numbered(count: int, keys: int = 0) -> list[Message]:
    return [(f"k{n % keys}".encode() if keys else None, f"m{n}".encode()) for n in range(count)]


async def test_results_arrive_with_key_and_headers(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source, out = await topic(), await topic(1)
    spec = {"output": {"topic": out, "value": "{{ result }}"}}
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, numbered(500, 20), headers=[("trace", b"1")])
    async with WorkerProcess(tmp_path, document) as worker:
        results = await read_until(kafka.bootstrap, out, 500)
        await until(worker.ready)
        assert (await worker.get("/livez"))[0] == 200
        assert await worker.metric('messages_total{outcome="succeeded"}') == 500
        assert await worker.terminate() == 0
    assert {r.value for r in results} == {v for _, v in numbered(500)}
    by_value = {r.value: r for r in results}
    for key, value in numbered(500, 20):
        assert by_value[value].key == key
    headers = dict(results[0].headers)
    assert headers["trace"] == b"1"
    assert headers["flowbinding-binding"] == b"it/test"
    assert headers["flowbinding-source"].startswith(source.encode())
    assert await lag(kafka.bootstrap, worker.group, source) == 0
    assert len(await read_all(kafka.bootstrap, out)) == 500


async def test_sigterm_drains_and_repeats_nothing(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(3)
    flow.seconds = 1.0
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec(timeoutSeconds=30)})
    await produce(kafka.bootstrap, source, numbered(60))
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: flow.running == 10)
        assert await worker.terminate() == 0
    called = len(flow.calls)
    assert flow.running == 0
    assert called < 60
    async with WorkerProcess(tmp_path, document, "worker-1") as second:
        await second.works_off(source)
        assert await second.terminate() == 0
    assert sorted(flow.inputs) == sorted(f"m{n}" for n in range(60))


async def test_a_second_worker_joins_and_order_and_singularity_hold(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(6)
    both = asyncio.Event()

    async def answer(_: Call) -> web.Response | None:
        if flow.running > 10:
            both.set()
        if len(flow.calls) > 50:
            await both.wait()
        return None

    flow.answer, flow.seconds = answer, 0.3
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    messages = numbered(400, 40)
    await produce(kafka.bootstrap, source, messages)
    async with WorkerProcess(tmp_path, document) as first:
        await until(lambda: len(flow.calls) > 50)
        async with WorkerProcess(tmp_path, document, "worker-1") as second:
            await until(both.is_set, what="both work")
            await first.works_off(source)
            assert await second.metric('messages_total{outcome="succeeded"}') > 0
            assert await first.terminate() == 0
            assert await second.terminate() == 0
    assert sorted(flow.inputs) == sorted(f"m{n}" for n in range(400)), "each exactly once"
    chains: dict[bytes | None, list[Call]] = defaultdict(list)
    keys = {(v or b"").decode(): k for k, v in messages}
    for call in flow.calls:
        chains[keys[call.input]].append(call)
    for calls in chains.values():
        numbers = [int(c.input[1:]) for c in calls]
        assert numbers == sorted(numbers)
        for earlier, later in itertools.pairwise(calls):
            assert earlier.end is not None
            assert later.start >= earlier.end


async def test_workers_that_come_and_go_lose_and_repeat_nothing(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(6)
    flow.seconds = 0.1
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    messages = list(numbered(2000, 300))
    await produce(kafka.bootstrap, source, messages[:800])
    async with WorkerProcess(tmp_path, document) as first:
        for turn in range(3):
            async with WorkerProcess(tmp_path, document, f"guest-{turn}") as guest:
                await until(guest.ready)
                # However long that took, there is something to do for both.
                called, sent = len(flow.calls), 800 + 400 * turn
                await produce(kafka.bootstrap, source, messages[sent : sent + 400])
                await until(lambda called=called: len(flow.calls) > called + 50)  # type: ignore[misc]
                assert await guest.terminate() == 0

        await first.works_off(source, 120)
        assert await first.metric("rebalances_total") >= 3
        assert await first.terminate() == 0
    assert sorted(flow.inputs) == sorted(f"m{n}" for n in range(2000))


async def test_a_call_longer_than_the_drain_is_left_to_the_next_owner(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """A SIGTERM whose grace ends first: the message runs again, and the others do not."""
    source, out = await topic(1), await topic(1)
    released = asyncio.Event()

    async def answer(call: Call) -> web.Response | None:
        if call.input == "m0" and not released.is_set():
            await asyncio.wait_for(released.wait(), 60)
        return None

    flow.answer = answer
    spec = {
        "flow": flow.spec(timeoutSeconds=60),
        "output": {"topic": out, "value": "{{ result }}"},
        "worker": {"terminationGracePeriodSeconds": 4},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, numbered(20))
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: len(flow.calls) == 20)
        assert await worker.terminate(4) == 0
    released.set()
    async with WorkerProcess(tmp_path, document, "worker-1") as second:
        await second.commits(20)
        assert await second.terminate() == 0
    assert flow.inputs[20:] == ["m0"]
    assert len(await read_all(kafka.bootstrap, out)) == 20


async def test_start_from_latest_skips_what_is_there_once(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source, out = await topic(2), await topic(1)
    await produce(kafka.bootstrap, source, numbered(10, 5))
    spec = {
        "source": {"startFrom": "Latest"},
        "output": {"topic": out, "value": "{{ result }}"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.commits(10)
        assert await worker.terminate() == 0
    await produce(kafka.bootstrap, source, [(b"k", b"while nobody looked")])
    async with WorkerProcess(tmp_path, document, "worker-1") as second:
        [result] = await read_until(kafka.bootstrap, out, 1)
        assert result.value == b"while nobody looked"
        assert await second.terminate() == 0


async def test_a_broker_that_restarts_is_no_reason_to_stop(
    tmp_path: Path, flow: FlowServer
) -> None:
    flow.seconds = 0.02
    with KafkaBroker(tmp_path / "own") as broker:
        await create_topics(broker.bootstrap, "in", "out", partitions=3)
        spec = {"flow": flow.spec(), "output": {"topic": "out", "value": "{{ result }}"}}
        document = manifest(broker.bootstrap, "in", spec)
        await produce(broker.bootstrap, "in", numbered(500, 50))
        async with WorkerProcess(tmp_path, document) as worker:
            await until(lambda: len(flow.calls) > 100)
            await asyncio.to_thread(broker.restart)
            await produce(broker.bootstrap, "in", numbered(500, 50))

            await worker.works_off("in", 90)
            assert await worker.terminate() == 0
        results = await read_all(broker.bootstrap, "out")
        assert {r.value for r in results} == {v for _, v in numbered(500)}
        assert len(results) >= 1000


async def test_a_worker_may_start_before_kafka(tmp_path: Path) -> None:
    broker = KafkaBroker(tmp_path / "own")
    document = manifest(broker.bootstrap, "in", {})
    async with WorkerProcess(tmp_path, document) as worker:

        async def said() -> bool:
            return "KafkaUnreachable" in worker.log.read_text()

        await until(said)
        assert (await worker.get("/livez"))[0] == 200
        assert not await worker.ready()
        with broker:

            async def missing() -> bool:
                return "TopicMissing" in worker.log.read_text()

            await until(missing, 60)
            await create_topics(broker.bootstrap, "in", partitions=1)
            await until(worker.ready, 60)
            assert await worker.terminate() == 0
    assert worker.log.read_text().count('"reason": "KafkaUnreachable"') == 1
