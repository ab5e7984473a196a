"""The real worker when things fail: dead letters, the circuit, topics that cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from flowbinding_worker.kafka.producer import KafkaProducer
from integration.flow_server import Call, FlowServer, refused
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import TopicFactory, create_topics, delete_topics, produce, read_all, read_until
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(120)


def text(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers}


async def produce_nothing(bootstrap: str, topic: str) -> None:
    """A record whose key and value are both null, which aiokafka's own send refuses."""
    producer = KafkaProducer(lambda: {"bootstrap_servers": bootstrap}, "test")
    await producer.send(topic, None, None, [])
    await producer.stop()


async def test_poison_goes_to_the_dead_letters_byte_for_byte(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, dead = await topic(3), await topic(3)
    poison = b"\xff{not json"
    spec = {
        "source": {"format": "JSON"},
        # Null has no such field: the tombstone cannot be rendered.
        "flow": flow.spec(input="{{ value.message }}"),
        "deadLetter": {"topic": dead},
    }
    document = manifest(kafka.bootstrap, source, spec)
    headers = [("mine", b"\x00\xff"), ("flowbinding-attempts", b"stale")]
    messages = [(b"a", poison), (b"a", b'{"message": "good"}'), (None, poison)]
    await produce(kafka.bootstrap, source, messages, headers=headers)
    await produce_nothing(kafka.bootstrap, source)
    async with WorkerProcess(tmp_path, document, "worker-7") as worker:
        letters = await read_until(kafka.bootstrap, dead, 3)

        await worker.works_off(source)
        assert await worker.terminate() == 0
    assert flow.inputs == ["good"]
    assert len(await read_all(kafka.bootstrap, dead)) == 3
    assert {(r.key, r.value) for r in letters} == {(b"a", poison), (None, poison), (None, None)}
    keyed = next(r for r in letters if r.key == b"a")
    assert dict(keyed.headers)["mine"] == b"\x00\xff"
    assert [n for n, _ in keyed.headers].count("flowbinding-attempts") == 1
    said = text(h for h in keyed.headers if h[0] != "mine")
    prefix = "__connect.errors."
    assert said[f"{prefix}topic"] == source
    assert said[f"{prefix}connector.name"] == "it/test"
    assert said[f"{prefix}task.id"] == "worker-7"
    assert said[f"{prefix}stage"] == "DECODE"
    assert said[f"{prefix}exception.class.name"].endswith("ProcessingError")
    assert {f"{prefix}partition", f"{prefix}offset", f"{prefix}exception.message"} <= set(said)
    assert said["flowbinding-group"] == worker.group
    assert said["flowbinding-flow-id"] == "flow"


async def test_retries_then_a_dead_letter_with_its_story(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, dead = await topic(1), await topic(1)

    async def answer(call: Call) -> web.Response | None:
        return refused(500, "component failed") if call.input == "bad" else None

    flow.answer = answer
    spec = {"flow": flow.spec(), "deadLetter": {"topic": dead}}
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(b"k", b"bad"), (b"k", b"next"), (b"o", b"other")])
    async with WorkerProcess(tmp_path, document) as worker:
        [letter] = await read_until(kafka.bootstrap, dead, 1)

        await worker.commits(3)
        assert await worker.terminate() == 0
    assert [i for i in flow.inputs if i != "other"] == ["bad", "bad", "bad", "next"]
    assert {c.request_id for c in flow.calls if c.input == "bad"} == {f"{source}-0-0"}
    said = text(letter.headers)
    assert said["flowbinding-attempts"] == "3"
    assert said["flowbinding-http-status"] == "500"
    assert said["flowbinding-retryable"] == "true"
    assert "component failed" in said["flowbinding-response"]
    assert int(said["flowbinding-first-failure-ms"]) < int(said["flowbinding-last-failure-ms"])
    assert "component failed" in worker.log.read_text(), "an error is logged with the answer"


async def test_a_wrong_key_opens_the_circuit_and_its_repair_heals(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source, out = await topic(3), await topic(1)
    locked = True

    async def answer(call: Call) -> web.Response | None:
        return refused(403, "Invalid API key") if locked else None

    flow.answer = answer
    spec = {"flow": flow.spec(), "output": {"topic": out, "value": "{{ result }}"}}
    document = manifest(kafka.bootstrap, source, spec)
    await create_topics(kafka.bootstrap, f"{source}.test.dlq", partitions=1)
    await produce(kafka.bootstrap, source, [(None, f"m{n}".encode()) for n in range(100)])
    async with WorkerProcess(tmp_path, document) as worker:

        async def shown() -> bool:
            return await worker.reason() == "FlowUnauthorized"

        await until(shown, 20)
        assert await worker.ready(), "a wrong key does not take the Pod out of service"
        assert len(flow.calls) <= 20
        locked = False

        await worker.works_off(source, 30)

        async def quiet() -> bool:
            return await worker.reason() == ""

        await until(quiet, 10)
        assert await worker.terminate() == 0
    results = await read_all(kafka.bootstrap, out)
    assert len(results) == 100
    assert await read_all(kafka.bootstrap, f"{source}.test.dlq") == []


async def test_a_secret_that_is_repaired_heals_without_a_restart(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    ref = {"name": "langflow", "key": "api-key"}
    spec = {"flow": flow.spec(apiKeySecretRef=ref)}
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, b"m0")])
    async with WorkerProcess(tmp_path, document) as worker:

        async def shown() -> bool:
            return await worker.reason() == "SecretMissing"

        await until(shown, 20)
        secret = tmp_path / "secrets" / "langflow"
        secret.mkdir(parents=True)
        (secret / "api-key").write_text("very-secret\n")

        await worker.commits(1, 30)
        assert await worker.terminate() == 0
    assert "very-secret" not in worker.log.read_text()


async def test_a_busy_server_is_given_the_time_it_asks_for(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)

    async def answer(call: Call) -> web.Response | None:
        first = flow.inputs.count(call.input) == 1
        return refused(429, "slow down", **{"Retry-After": "3"}) if first else None

    flow.answer = answer
    spec = {"flow": flow.spec(), "retry": {"maxAttempts": 1}}
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, b"m0")])
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.commits(1)
        assert await worker.terminate() == 0
    first, second = flow.calls
    assert second.start - first.start >= 3


async def test_while_the_output_topic_is_missing_results_wait_on_disk(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    out = f"{source}.out"
    spec = {"flow": flow.spec(), "output": {"topic": out, "value": "{{ result }}"}}
    document = manifest(kafka.bootstrap, source, spec)
    await produce(kafka.bootstrap, source, [(None, f"m{n}".encode()) for n in range(50)])
    async with WorkerProcess(tmp_path, document) as worker:

        async def shown() -> bool:
            return await worker.reason() == "OutputUnavailable"

        await until(shown, 20)
        [figures] = await worker.figures()
        assert out in figures.message
        assert await worker.committed() == 0

        async def waiting() -> bool:
            return await worker.metric("spool_records") == 50

        await until(waiting, 20)
        await create_topics(kafka.bootstrap, out, partitions=2)

        await worker.commits(50, 30)
        assert await worker.terminate() == 0
    assert len(await read_all(kafka.bootstrap, out)) == 50
    assert len(flow.calls) == 50, "no result was run for twice"
    await delete_topics(kafka.bootstrap, out)


async def test_dead_letters_that_cannot_be_written_are_kept(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    source = await topic(2)
    document = manifest(kafka.bootstrap, source, {"source": {"format": "JSON"}})
    await produce(kafka.bootstrap, source, [(None, b"bad")], partition=0)
    await produce(kafka.bootstrap, source, [(None, b'{"message": "m"}')] * 5, partition=1)
    async with WorkerProcess(tmp_path, document) as worker:

        async def shown() -> bool:
            return await worker.reason() == "DeadLetterUnavailable"

        await until(shown, 20)
        assert await worker.committed() == 5, "the other partition goes on"
        dead = f"{source}.test.dlq"
        await create_topics(kafka.bootstrap, dead, partitions=1)
        [letter] = await read_until(kafka.bootstrap, dead, 1)
        assert letter.value == b"bad"

        await worker.commits(6)
        assert await worker.terminate() == 0
    assert len(await read_all(kafka.bootstrap, dead)) == 1


async def test_results_too_large_for_their_topic(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    """The broker refuses one record, and batches of others; those must still be written."""
    source, dead = await topic(1), await topic(1)
    out = await topic(1, **{"max.message.bytes": "2000"})
    spec = {
        "output": {"topic": out, "value": "{{ result }}"},
        "deadLetter": {"topic": dead},
    }
    document = manifest(kafka.bootstrap, source, spec)
    small = [b"%03d" % n + b"s" * 500 for n in range(300)]
    large = b"x" * 50_000
    messages = [*small[:150], large, *small[150:]]
    await produce(kafka.bootstrap, source, [(None, m) for m in messages])
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.commits(len(messages))
        assert await worker.terminate() == 0
    assert {r.value for r in await read_all(kafka.bootstrap, out)} == set(small)
    [letter] = await read_all(kafka.bootstrap, dead)
    assert letter.value == large
    assert text(letter.headers)["flowbinding-reason"] == "ResultTooLarge"
