"""`output.routes` and CloudEvents on a real broker, with both guarantees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from integration.worker_process import WorkerProcess, manifest
from kafkaio import Message, TopicFactory, create_topics, produce, read_until
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)

COUNT, KEYS = 300, 7
EVENT = [
    *(("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/shop")),
    *(("ce_type", b"order"), ("content-type", b"application/json")),
]


def orders() -> list[Message]:
    """Numbered messages of some keys; every third has a high score, every hundredth none."""
    return [
        (
            f"k{n % KEYS}".encode(),
            json.dumps({"n": n, **({} if n % 100 == 99 else {"score": n % 3})}).encode(),
        )
        for n in range(COUNT)
    ]


def numbers(records: list[ConsumerRecord]) -> list[int]:
    """The numbers in some results, whose keys' orders are checked on the way."""
    last: dict[bytes | None, int] = {}
    for record in records:
        number = json.loads(record.value)["n"]
        assert number > last.get(record.key, -1)
        last[record.key] = number
    return sorted(json.loads(record.value)["n"] for record in records)


@pytest.mark.parametrize("guarantee", ["AtLeastOnce", "ExactlyOnce"])
async def test_results_go_where_their_routes_say(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, guarantee: str
) -> None:
    source, out, high, letters = await topic(3), await topic(2), await topic(2), await topic(1)
    late = f"{source}-late"
    routes = [{"when": "result.score == 2", "topic": high}, {"when": "result.score", "topic": late}]
    output = {"topic": out, "value": "{{ result }}", "guarantee": guarantee, "routes": routes}
    spec = {"output": output, "deadLetter": {"topic": letters}}
    document = manifest(kafka.bootstrap, source, spec)
    document["spec"]["source"]["format"] = "CloudEvents"
    document["spec"]["flow"]["input"] = '{"n": {{ value.n }}, "type": "{{ event.type }}"' + (
        '{% if "score" in value %}, "score": {{ value.score }}{% endif %}}'
    )
    await produce(kafka.bootstrap, source, orders(), headers=EVENT)
    async with WorkerProcess(tmp_path, document) as worker:
        # A topic that is not there yet keeps only its own results.
        expected = [n for n in range(COUNT) if n % 100 != 99 and n % 3 == 2]
        assert numbers(await read_until(kafka.bootstrap, high, len(expected))) == expected
        await create_topics(kafka.bootstrap, late)
        expected = [n for n in range(COUNT) if n % 100 != 99 and n % 3 == 1]
        found = await read_until(kafka.bootstrap, late, len(expected), seconds=60)
        assert numbers(found) == expected
        assert {json.loads(record.value)["type"] for record in found} == {"order"}
        expected = [n for n in range(COUNT) if n % 100 != 99 and n % 3 == 0]
        assert numbers(await read_until(kafka.bootstrap, out, len(expected))) == expected
        dead = await read_until(kafka.bootstrap, letters, 3)

        await worker.works_off(source, 60)
        assert await worker.terminate() == 0
    assert {json.loads(letter.value)["n"] for letter in dead} == {99, 199, 299}
    why = dict(dead[0].headers)["__connect.errors.exception.message"].decode()
    assert why == "spec.output.routes[0].when line 1: 'dict object' has no attribute 'score'"
