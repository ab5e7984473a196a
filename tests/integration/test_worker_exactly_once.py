"""`output.guarantee: ExactlyOnce` on a real broker: each result once, whoever dies or lingers."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiokafka import ConsumerRecord, TopicPartition

from flowbinding_worker.delivery.spool_codec import Message as Outgoing
from flowbinding_worker.kafka.port import KafkaUnavailableError, Position
from flowbinding_worker.ports import Partition
from flowbinding_worker.transactions.kafka import KafkaTransactions
from integration.flow_server import Call, FlowServer, refused
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import Message, TopicFactory, committed, create_topics, evict, lag, produce, read_all
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(180)

MODES = ("Key", "Partition", "None")


def exactly_once(
    kafka: KafkaBroker, source: str, out: str, flow: FlowServer, **more: Any
) -> dict[str, Any]:
    output = {"topic": out, "value": "{{ result }}", "guarantee": "ExactlyOnce"}
    spec = {"flow": flow.spec(timeoutSeconds=10), "output": output, **more}
    return manifest(kafka.bootstrap, source, spec)


def numbered(count: int, keys: int = 40) -> list[Message]:
    return [(f"k{n % keys}".encode(), f"m{n}".encode()) for n in range(count)]


async def caught_up(kafka: KafkaBroker, group: str, source: str) -> None:
    async def done() -> bool:
        return await lag(kafka.bootstrap, group, source) == 0

    await until(done, 90, f"lag of {group} is 0")


async def results(kafka: KafkaBroker, out: str) -> list[ConsumerRecord]:
    """What a reader with isolation.level=read_committed sees."""
    return await read_all(kafka.bootstrap, out)


def assert_once(found: Sequence[ConsumerRecord], count: int) -> None:
    counts = Counter(record.value for record in found)
    expected = Counter(value for _, value in numbered(count))
    assert counts - expected == Counter(), "there twice"
    assert expected - counts == Counter(), "missing"


def assert_ordered(found: Sequence[ConsumerRecord]) -> None:
    """The results of each key have the order of its messages."""
    last: dict[bytes | None, int] = {}
    for record in found:
        number = int(record.value[1:])
        assert number > last.get(record.key, -1)
        last[record.key] = number


@pytest.mark.parametrize("ordering", MODES)
async def test_a_killed_worker_leaves_no_result_twice(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer, ordering: str
) -> None:
    source, out = await topic(6), await topic(3)
    flow.seconds = 0.05
    concurrency = {"ordering": ordering, "perReplica": 20}
    document = exactly_once(kafka, source, out, flow, concurrency=concurrency)
    await produce(kafka.bootstrap, source, numbered(600))
    for turn in range(3):
        async with WorkerProcess(tmp_path, document, f"victim-{turn}") as victim:
            seen = len(flow.calls)
            await until(lambda seen=seen: len(flow.calls) > seen + 60)  # type: ignore[misc]
            await victim.kill()
        await evict(kafka.bootstrap, victim.group)
    async with WorkerProcess(tmp_path, document, "survivor") as worker:
        await caught_up(kafka, worker.group, source)
        assert await worker.terminate() == 0
    found = await results(kafka, out)
    assert_once(found, 600)
    if ordering != "None":
        assert_ordered(found)
    assert len(flow.calls) > 600, "what was in flight has run again"


async def test_a_worker_that_was_away_writes_nothing_on_its_return(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(4), await topic(2)
    flow.seconds = 0.1
    document = exactly_once(kafka, source, out, flow, concurrency={"perReplica": 20})
    await produce(kafka.bootstrap, source, numbered(300))
    async with WorkerProcess(tmp_path, document, "zombie") as zombie:
        await until(lambda: len(flow.calls) > 100)
        zombie.process.send_signal(signal.SIGSTOP)
        await evict(kafka.bootstrap, zombie.group)
        async with WorkerProcess(tmp_path, document, "heir") as heir:
            await caught_up(kafka, heir.group, source)
            before = await results(kafka, out)
            assert_once(before, 300)
            zombie.process.send_signal(signal.SIGCONT)

            # It notices, joins again and gets half of what comes next.
            async def shared() -> bool:
                return await zombie.metric("rebalances_total") > 0 and await zombie.ready()

            await until(shared, 60, "the one that was away is back in the group")
            more = [(f"k{n}".encode(), f"m{300 + n}".encode()) for n in range(100)]
            await produce(kafka.bootstrap, source, more)
            await caught_up(kafka, heir.group, source)
            assert await heir.terminate() == 0
            assert await zombie.terminate() == 0
    assert_once(await results(kafka, out), 400)


async def test_workers_come_and_go_under_load(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(6), await topic(3)
    flow.seconds = 0.1
    document = exactly_once(kafka, source, out, flow)
    messages = numbered(900)
    async with WorkerProcess(tmp_path, document) as first:
        for turn in range(3):
            async with WorkerProcess(tmp_path, document, f"guest-{turn}") as guest:
                await until(guest.ready)
                part = messages[turn * 300 : (turn + 1) * 300]
                await produce(kafka.bootstrap, source, part)
                enough = turn * 300 + 50
                await until(lambda enough=enough: len(flow.calls) > enough)  # type: ignore[misc]
                assert await guest.terminate() == 0
        await caught_up(kafka, first.group, source)
        assert await first.terminate() == 0
    found = await results(kafka, out)
    assert_once(found, 900)
    assert_ordered(found)
    assert len(flow.calls) == 900, "running calls were waited for"


async def test_a_broker_that_dies_in_the_middle(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, flow: FlowServer
) -> None:
    with KafkaBroker(tmp_path_factory.mktemp("dying")) as kafka:
        await create_topics(kafka.bootstrap, "source", partitions=4)
        await create_topics(kafka.bootstrap, "out", partitions=2)
        flow.seconds = 0.05
        document = exactly_once(kafka, "source", "out", flow, concurrency={"perReplica": 20})
        await produce(kafka.bootstrap, "source", numbered(800))
        async with WorkerProcess(tmp_path, document) as worker:
            for turn in range(2):
                await until(lambda turn=turn: len(flow.calls) > 150 + 200 * turn)  # type: ignore[misc]
                await asyncio.to_thread(kafka.kill)
                await asyncio.to_thread(kafka.start)
            await caught_up(kafka, worker.group, "source")
            assert await worker.terminate() == 0
        found = await results(kafka, "out")
        assert_once(found, 800)
        assert_ordered(found)


async def test_dead_letters_and_what_is_too_large(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(2), await topic(1, **{"max.message.bytes": "4000"})
    dlq = await topic(1, **{"max.message.bytes": "4000"})

    async def answer(call: Call) -> web.Response | None:
        return refused(422, "never") if call.input == "m7" else None

    flow.answer = answer
    await produce(kafka.bootstrap, source, [*numbered(20), (b"k", b"large" + b"x" * 8000)])
    document = exactly_once(kafka, source, out, flow, deadLetter={"topic": dlq})
    async with WorkerProcess(tmp_path, document) as worker:
        await caught_up(kafka, worker.group, source)
        assert await worker.metric('messages_total{outcome="deadLettered"}') == 2
        assert await worker.terminate() == 0
    assert {r.value for r in await results(kafka, out)} == {v for _, v in numbered(20)} - {b"m7"}
    assert len(await results(kafka, out)) == 19
    dead = {r.key: r.value for r in await results(kafka, dlq)}
    assert dead == {b"k7": b"m7", b"k": None}, "of the large one only the key is left"


async def test_a_former_owner_is_refused_and_the_new_one_sees_what_it_left(
    kafka: KafkaBroker, topic: TopicFactory
) -> None:
    """The three promises of Kafka that all else is built on."""
    source, out = await topic(1), await topic(1)
    partition = Partition(source, 0)
    options = {"bootstrap_servers": kafka.bootstrap}
    old, new = (KafkaTransactions(lambda: options, "t", f"g-{out}", partition) for _ in range(2))
    try:
        assert await old.open() is None
        for n in range(30):
            # Its end returns before the offset can be read: only `open` waits for that.
            await old.commit([Outgoing(out, b"k", b"%d" % n, ())], Position(n + 1, f"meta-{n}"))
            assert await new.open() == Position(n + 1, f"meta-{n}")
            with pytest.raises(KafkaUnavailableError, match="newer producer"):
                await old.commit([Outgoing(out, b"k", b"late", ())], Position(99, "late"))
            old, new = new, old
        producer = old._producer
        await producer.begin_transaction()
        await producer.send(out, b"open", partition=0)
        pending = {TopicPartition(source, 0): (77, "")}
        await producer.send_offsets_to_transaction(pending, old._group)
        assert (await old._ask())[0] == 88, "an offset that is being replaced is not told"
        assert await new.open() == Position(30, "meta-29")
    finally:
        await old.close()
        await new.close()
    assert [r.value for r in await results(kafka, out)] == [b"%d" % n for n in range(30)]
    assert (await committed(kafka.bootstrap, f"g-{out}"))[TopicPartition(source, 0)][0] == 30
