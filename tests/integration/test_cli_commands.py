"""`flowbinding produce`, `tail` and `status` on a real broker."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

import kafkaio
from flowbinding_cli.kafka import Cluster
from integration import command
from integration.command import Desk
from integration.worker_process import WorkerProcess, until
from kafkaio import TopicFactory
from testbed import KafkaBroker

# Each command is a process, and processes start slowly beside others.
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def desk(kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path) -> Desk:
    return Desk(tmp_path, kafka.bootstrap, await topic(), await topic())


async def sent(desk: Desk) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values in the source topic, in the order of their values."""
    records = await kafkaio.read_all(desk.bootstrap, desk.source)
    return sorted(((r.key, r.value) for r in records), key=lambda item: item[1] or b"")


async def test_arguments_and_headers(desk: Desk) -> None:
    out = await command.succeed(
        *("produce", desk.file, "--json", '{"a": 1}', "--json", "2"),
        *("--key", "k", "--header", "one=1", "--header", "one=2", "-o", "json"),
    )
    [record, other] = await kafkaio.read_all(desk.bootstrap, desk.source)
    assert (record.key, record.value, other.value) == (b"k", b'{"a": 1}', b"2")
    assert record.headers == (("one", b"1"), ("one", b"2"))
    place = {"topic": desk.source, "partition": record.partition, "count": 2}
    assert json.loads(out) == {"written": 2, "partitions": [{**place, "first": 0, "last": 1}]}


async def test_lines_of_standard_input(desk: Desk) -> None:
    out = await command.succeed("produce", desk.file, "--file", "-", stdin="b\n\na\n")
    assert f"2 messages written to {desk.source}" in out
    assert await sent(desk) == [(None, b"a"), (None, b"b")]


async def test_rows_of_csv_with_keys(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("id,name\n1,Ada\n2,Alan\n")
    arguments = ("--csv", str(tmp_path / "f.csv"), "--key-field", "id")
    await command.succeed("produce", desk.file, *arguments)
    assert await sent(desk) == [
        (b"1", b'{"id": "1", "name": "Ada"}'),
        (b"2", b'{"id": "2", "name": "Alan"}'),
    ]


async def test_generated_messages_to_any_topic(desk: Desk) -> None:
    address = ("--topic", desk.source, "--bootstrap-servers", desk.bootstrap)
    template = ("--template", "m{{ n }}", "--count", "2500", "--key", "k{{ n % 7 }}")
    out = await command.succeed("produce", *address, *template, "--rate", "100000", "-ojson")
    assert json.loads(out)["written"] == 2500
    expected = sorted((f"k{n % 7}".encode(), f"m{n}".encode()) for n in range(2500))
    assert sorted((key or b"", value or b"") for key, value in await sent(desk)) == expected


async def test_what_was_written_before_an_error_is_told(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text("1\n2\n{\n4\n")
    result = await command.run("produce", desk.file, "--file", str(tmp_path / "f.jsonl"))
    assert result.code == 1
    assert "f.jsonl:3: not JSON" in result.err
    assert result.err.endswith("(2 messages were written)\n")
    assert await sent(desk) == [(None, b"1"), (None, b"2")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--topic", "no-such-topic", "--text", "x"), "you may not see it: no-such-topic"),
        (
            ("--bootstrap-servers", "127.0.0.1:1", "--text", "x"),
            "Kafka at 127.0.0.1:1 does not answer: Connect",
        ),
        (("--text", "x" * 2_000_000), "larger than the topic takes (max.message.bytes)"),
        (("--text", "\udcff"), "message 1: not UTF-8"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
async def test_failures_are_one_sentence(
    desk: Desk, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    if len(arguments[-1]) > 1000:
        # No command line is that long.
        (tmp_path / "large").write_text(arguments[-1])
        arguments = ("--file", str(tmp_path / "large"))
    result = await command.run("produce", desk.file, *arguments)
    assert result.code == 1, result
    assert result.err.startswith("error: "), result
    assert says in result.err
    assert result.err.count("\n") == 1, result


async def test_a_reader_that_reads_nothing_ends_in_peace(desk: Desk) -> None:
    """As for the dead letters of a binding that has had none."""
    async with Cluster({"bootstrap_servers": desk.bootstrap}) as cluster:
        assert await cluster.members("nobody") == {}
        async with cluster.reader([]) as reader:
            assert await reader.ends() == {}


async def test_a_topic_that_is_asked_for_is_not_made(desk: Desk) -> None:
    await command.run("produce", desk.file, "--topic", f"{desk.source}-x", "--text", "x")
    async with kafkaio.admin(desk.bootstrap) as admin:
        assert f"{desk.source}-x" not in await admin.list_topics()


async def results(desk: Desk, output: str, *numbers: int, binding: bytes = b"it/desk") -> None:
    """Write results as the worker does."""
    producer = AIOKafkaProducer(bootstrap_servers=desk.bootstrap)
    await producer.start()
    try:
        for n in numbers:
            found = [
                ("flowbinding-binding", binding),
                ("flowbinding-source", f"{desk.source}-0-{n}".encode()),
            ]
            await producer.send_and_wait(
                output, f'{{"n": {n}}}'.encode(), partition=n % 3, headers=found, timestamp_ms=n + 1
            )
    finally:
        await producer.stop()


def numbers(out: str) -> list[int]:
    return [json.loads(line)["value"]["n"] for line in out.splitlines()]


async def test_tail_shows_what_is_there(desk: Desk, topic: TopicFactory) -> None:
    output = await topic()
    desk.write(output={"topic": output})
    await results(desk, output, *range(10))
    await results(desk, output, *range(10, 40), binding=b"it/other")
    tail = ("tail", desk.file, "--no-follow", "-o", "json")
    everything = await command.succeed(*tail, "--from-beginning")
    assert sorted(numbers(everything)) == list(range(10))
    assert numbers(await command.succeed(*tail, "--last", "4")) == [6, 7, 8, 9]
    assert await command.succeed(*tail) == ""
    await desk.fail([3])
    lines = (await command.succeed("tail", desk.file, "--no-follow", "--from-beginning")).split(
        "\n"
    )
    [dead] = [line for line in lines if "DEAD" in line]
    assert f"{desk.source}-0-3 k3 FlowFailed: no answer to 3" in dead


async def test_tail_follows(desk: Desk, topic: TopicFactory) -> None:
    output = await topic()
    desk.write(output={"topic": output})
    await results(desk, output, 0)
    process = await command.start("tail", desk.file, "--last", "1", "-o", "json")
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert numbers((await process.stdout.readline()).decode()) == [0]
        await results(desk, output, 1)
        assert numbers((await process.stdout.readline()).decode()) == [1]
        await desk.fail([5])
        line = json.loads(await process.stdout.readline())
    assert (line["kind"], line["reason"]) == ("dead-letter", "FlowFailed")
    process.terminate()
    await process.wait()


async def test_status_and_answers_of_a_worker_at_work(
    desk: Desk, topic: TopicFactory, tmp_path: Path
) -> None:
    desk.write(output={"topic": await topic()})
    await kafkaio.produce(desk.bootstrap, desk.source, [(None, b"hello")] * 5)
    document = {
        "apiVersion": "flowbinding.io/v1alpha1",
        "kind": "FlowBinding",
        "metadata": {"name": "desk", "namespace": "it"},
        "spec": desk.spec,
    }
    async with WorkerProcess(tmp_path, document, name="desk-0") as worker:
        await until(lambda: drained(worker), what="all is committed")
        shown = json.loads(await command.succeed("status", desk.file, "-o", "json"))["kafka"]
        readable = await command.succeed("status", desk.file)
        said = ("--text", "one", "--text", "two", "--wait", "60")
        answered = json.loads(await command.succeed("produce", desk.file, *said, "-o", "json"))
        assert answered["written"] == 2
        assert {line["value"]["result"] for line in answered["answers"]} == {"one", "two"}
    [found] = shown["workers"]
    assert (found["name"], found["partitions"], found["trouble"]) == ("desk-0", 3, "")
    assert found["slots"] == 10
    assert [(p["lag"], p["worker"]) for p in shown["partitions"]] == [(0, "desk-0")] * 3
    assert "Lag: 0 in 3 partitions" in readable


async def drained(worker: WorkerProcess) -> bool:
    return await worker.committed() == 5


async def test_letters_that_kafka_may_have_forgotten_are_left_to_the_user(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    # Kafka keeps the progress of a replay for a week: these may have been replayed before.
    forever = {"retention.ms": "-1"}
    desk = Desk(tmp_path, kafka.bootstrap, await topic(), await topic(1, **forever))
    await desk.fail([0, 3], timestamp_ms=1_000)
    await desk.fail([6])
    refused = await command.run("dead-letters", "replay", desk.file)
    assert refused.code == 1
    assert "up to 2 dead letters are older" in refused.err
    assert await sent(desk) == []
    listed = await command.run("dead-letters", "list", desk.file, "-o", "json")
    assert len(json.loads(listed.out)) == 3
    assert "may have been replayed before" in listed.err

    await command.succeed("dead-letters", "replay", desk.file, "--old", "done")
    assert await sent(desk) == [(b"k6", b"m6")]
    await command.succeed("dead-letters", "replay", desk.file)
    assert await sent(desk) == [(b"k6", b"m6")]


async def test_old_letters_are_replayed_when_the_user_says_so(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path
) -> None:
    forever = {"retention.ms": "-1"}
    desk = Desk(tmp_path, kafka.bootstrap, await topic(), await topic(1, **forever))
    await desk.fail([0, 3], timestamp_ms=1_000)
    chosen = ("--reason", "None")
    await command.succeed("dead-letters", "replay", desk.file, "--old", "open", *chosen)
    assert await sent(desk) == []
    # It is remembered from now on.
    await command.succeed("dead-letters", "replay", desk.file)
    assert await sent(desk) == [(b"k0", b"m0"), (b"k3", b"m3")]
