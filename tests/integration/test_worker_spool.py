"""Results and dead letters wait on disk while the real broker does not take them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka import ConsumerRecord

from integration.flow_server import Call, FlowServer
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, create_topics, delete_topics, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(150)

KEYS = 6
OUT = {"value": "{{ result }}"}


def langflow(flow: FlowServer, **more: Any) -> dict[str, Any]:
    return {"backend": "Langflow", "id": "flow", "url": flow.url, **more}


def messages(first: int, last: int) -> list[Message]:
    return [(b"k%d" % (n % KEYS), b"m%03d" % n) for n in range(first, last)]


def in_order(records: Sequence[ConsumerRecord]) -> bool:
    """Whether the records of each key are in the order in which they were made."""
    of_key: dict[bytes, list[bytes]] = {}
    for record in records:
        of_key.setdefault(record.key, []).append(record.value)
    return all(values == sorted(values) for values in of_key.values())


async def waiting(worker: WorkerProcess, count: int, seconds: float = 30) -> None:
    async def holds() -> bool:
        return await worker.metric("spool_records") == count

    await until(holds, seconds, f"{count} records on disk")


async def done(worker: WorkerProcess, count: int, seconds: float = 40) -> None:
    await worker.commits(count, seconds, f"{count} committed")


async def test_a_broker_that_stops_costs_no_result_and_no_order(
    tmp_path: Path, flow: FlowServer
) -> None:
    go = asyncio.Event()

    async def answer(_: Call) -> web.Response | None:
        await go.wait()
        return None

    flow.answer = answer
    with KafkaBroker(tmp_path / "own") as broker:
        await create_topics(broker.bootstrap, "in", "out", partitions=2)
        spec = {
            "flow": langflow(flow),
            "output": {"topic": "out", **OUT},
            "concurrency": {"perReplica": 4},
        }
        await produce(broker.bootstrap, "in", messages(0, 30))
        async with WorkerProcess(tmp_path, manifest(broker.bootstrap, "in", spec)) as worker:

            async def fetched() -> bool:
                found = await worker.metrics()
                return found.get("buffered", 0) + found.get("in_flight", 0) == 30

            await until(fetched)
            broker.stop()
            go.set()
            await waiting(worker, 30)
            assert await worker.metric("in_flight") == 0
            assert len(flow.calls) == 30
            broker.start()
            await done(worker, 30)
            await produce(broker.bootstrap, "in", messages(30, 40))
            await done(worker, 40)
            await waiting(worker, 0)
            assert await worker.terminate() == 0
        written = await read_all(broker.bootstrap, "out")
    assert sorted(r.value for r in written) == [b"m%03d" % n for n in range(40)]
    assert in_order(written)
    assert len(flow.calls) == 40


@pytest.mark.slow
async def test_a_worker_killed_while_results_wait_delivers_them_when_it_starts_again(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(2)
    out, dead = f"{source}.out", f"{source}.test.dlq"
    spec = {
        "flow": langflow(flow, input="{{ value.message if text != 'poison' else value.no.such }}"),
        "output": {"topic": out, **OUT},
    }
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [*messages(0, 20), (b"p", b"poison")])
    async with WorkerProcess(tmp_path, document) as worker:
        await waiting(worker, 21)
        assert len(flow.calls) == 20
        await worker.kill()
    async with WorkerProcess(tmp_path, document) as worker:
        await waiting(worker, 21)
        await create_topics(kafka.bootstrap, out, dead, partitions=2)
        await done(worker, 21, 90)
        await produce(kafka.bootstrap, source, messages(20, 30))
        await done(worker, 31)
        assert await worker.terminate() == 0
    written = await read_all(kafka.bootstrap, out)
    assert sorted(r.value for r in written) == [b"m%03d" % n for n in range(30)]
    assert in_order(written)
    [letter] = await read_all(kafka.bootstrap, dead)
    assert letter.value == b"poison"
    assert len(flow.calls) == 30, "what waited on disk did not run again"
    await delete_topics(kafka.bootstrap, out, dead)


async def test_while_dead_letters_cannot_be_written_their_keys_go_on(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source, out = await topic(1), await topic(1)
    spec = {
        "source": {"format": "JSON"},
        "output": {"topic": out, "envelope": "CloudEvents"},
        "deadLetter": {"headerStyle": "Both"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    good = b'{"message": "m"}'
    await produce(kafka.bootstrap, source, [(b"k", v) for v in (b"bad", good, b"bad too", good)])
    async with WorkerProcess(tmp_path, document) as worker:
        await waiting(worker, 2)

        async def written() -> bool:
            return len(await read_all(kafka.bootstrap, out)) == 2

        await until(written)

        async def told() -> bool:
            return any("2 dead letters wait on disk" in f.message for f in await worker.figures())

        await until(told)
        assert await worker.reason() == "DeadLetterUnavailable"
        assert await worker.committed() == 0
        dead = f"{source}.test.dlq"
        await create_topics(kafka.bootstrap, dead, partitions=1)
        await done(worker, 4)
        assert await worker.terminate() == 0
    letters = await read_all(kafka.bootstrap, dead)
    assert [r.value for r in letters] == [b"bad", b"bad too"]
    headers = dict(letters[1].headers)
    assert int.from_bytes(headers["kafka_dlt-original-offset"], "big") == 2
    assert headers["__connect.errors.offset"] == b"2"
    event = (await read_all(kafka.bootstrap, out))[0]
    assert dict(event.headers)["content-type"] == b"application/cloudevents+json"
    await delete_topics(kafka.bootstrap, dead)
