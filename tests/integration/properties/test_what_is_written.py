"""Results and dead letters: of every kind of message, in every mode, with what they owe it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from flowbinding_worker.kafka.producer import KafkaProducer
from integration.flow_server import Call, FlowServer, refused
from integration.worker_process import WorkerProcess, manifest
from kafkaio import TopicFactory, read_all, read_until
from testbed import KafkaBroker

Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


async def send(bootstrap: str, topic: str, records: list[Record]) -> None:
    """Records of any kind to partition 0: aiokafka's own send refuses some."""
    producer = KafkaProducer(lambda: {"bootstrap_servers": bootstrap}, "test")
    try:
        for key, value, headers in records:
            await producer.send(topic, key, value, headers)
    finally:
        await producer.stop()


@pytest.mark.parametrize("mode", ["Key", "Partition", "None"])
async def test_poison_becomes_one_dead_letter_and_its_partition_goes_on(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer, mode: str
) -> None:
    source, dead, out = await topic(1), await topic(3), await topic(1)

    async def answer(call: Call) -> web.Response | None:
        return refused(422, "the input is not valid") if call.input == "refused" else None

    flow.answer = answer
    spec = {
        "source": {"format": "JSON"},
        "flow": flow.spec(),
        "deadLetter": {"topic": dead},
        "output": {"topic": out, "value": "{{ result }}"},
        "concurrency": {"ordering": mode},
    }
    document = manifest(kafka.bootstrap, source, spec)
    headers: list[tuple[str, bytes | None]] = [("trace", b"\x00\xff"), ("trace", b"2"), ("n", None)]
    bad = [b"\xff{not json", b'{"message": "refused"}']
    records: list[Record] = []
    for number in range(10):
        records.append((b"k", b'{"message": "good-%d"}' % number, headers))
        if number in (3, 6):
            records.append((b"k", bad[number // 3 - 1], headers))
    await send(kafka.bootstrap, source, records)
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        assert await worker.terminate() == 0
    letters = sorted(await read_all(kafka.bootstrap, dead), key=lambda r: r.value)
    assert [(r.key, r.value) for r in letters] == [(b"k", bad[1]), (b"k", bad[0])]
    wanted = {"__connect.errors.topic", "__connect.errors.partition", "__connect.errors.offset"}
    wanted |= {"__connect.errors.stage", "__connect.errors.exception.message"}
    wanted |= {"flowbinding-reason", "flowbinding-attempts", "flowbinding-group"}
    for letter in letters:
        assert list(letter.headers)[:3] == headers
        said = {name: value.decode() for name, value in list(letter.headers)[3:]}
        assert wanted <= set(said)
        assert said["__connect.errors.topic"] == source
    assert flow.inputs.count("refused") == 1
    good = [f"good-{n}" for n in range(10)]
    assert sorted(i for i in flow.inputs if i != "refused") == good
    assert sorted(r.value.decode() for r in await read_all(kafka.bootstrap, out)) == good


async def test_messages_without_key_value_or_headers_have_results_too(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(1), await topic(1)
    spec = {
        "source": {"format": "Text"},
        "flow": flow.spec(input="{{ text or 'nothing' }} {{ offset }}"),
        "output": {"topic": out, "value": "{{ result }}"},
    }
    document = manifest(kafka.bootstrap, source, spec)
    records: list[Record] = [
        (b"k", b"both", [("h", b"1")]),
        (None, b"no key", []),
        (b"k", None, [("empty", b""), ("null", None)]),
        (None, None, []),
        (b"", b"", []),
        (b"\xff\x00", b"key of bytes", [("correlation-id", b"\x01\x02")]),
    ]
    await send(kafka.bootstrap, source, records)
    async with WorkerProcess(tmp_path, document) as worker:
        results = await read_until(kafka.bootstrap, out, len(records))
        assert await worker.terminate() == 0
    found: dict[int, Any] = {int(r.value.decode().rsplit(" ", 1)[1]): r for r in results}
    for offset, (key, _, headers) in enumerate(records):
        record = found[offset]
        assert record.key == key
        assert list(record.headers)[: len(headers)] == headers
        assert dict(record.headers)["flowbinding-source"] == f"{source}-0-{offset}".encode()
    assert found[3].value == b"nothing 3"
