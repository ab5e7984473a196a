"""Where a worker begins: without a commit, with a strange one, after its topic was made anew."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from flowbinding_api.offsets import Figures, Progress, encode
from integration.flow_server import FlowServer
from integration.worker_process import WorkerProcess, manifest, until
from kafkaio import (
    Message,
    TopicFactory,
    commit,
    committed,
    create_topics,
    delete_topics,
    produce,
)
from testbed import KafkaBroker

pytestmark = pytest.mark.timeout(180)


def numbered(count: int, prefix: str = "m") -> list[Message]:
    return [(f"k{n % 7}".encode(), f"{prefix}{n}".encode()) for n in range(count)]


def values(messages: list[Message]) -> list[str]:
    return sorted((value or b"").decode() for _, value in messages)


async def test_a_first_start_reads_what_is_there(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(3)
    await produce(kafka.bootstrap, source, numbered(50))
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        assert await worker.terminate() == 0
    assert sorted(flow.inputs) == values(numbered(50))


OF_ANOTHER_OFFSET = encode(7, Progress(60, (8,)), Figures(1, 10))
BEYOND_THE_END = encode(5, Progress(90, (8,)), Figures(1, 10))
CUT = encode(5, Progress(40, (8,)), Figures(1, 10))[:-6]


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "written by hand",
        "bitset:AAAAAAAAAAA=",
        "FB1",
        "FB1!!!!",
        "FB1" + "A" * 4000,
        CUT,
        OF_ANOTHER_OFFSET,
        BEYOND_THE_END,
    ],
    ids=[
        "none",
        "words",
        "of Parallel Consumer",
        "empty",
        "not base64",
        "long",
        "cut",
        "of another offset",
        "beyond the end",
    ],
)
async def test_strange_metadata_never_makes_a_message_count_as_done(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer, metadata: str
) -> None:
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    group = document["spec"]["source"]["consumerGroup"]
    await produce(kafka.bootstrap, source, numbered(50))
    await commit(
        kafka.bootstrap, group, {TopicPartition(source, 0): OffsetAndMetadata(5, metadata)}
    )
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        ignored = await worker.metric("metadata_ignored_total")
        assert await worker.terminate() == 0
    assert sorted(flow.inputs) == values(numbered(50)[5:])
    assert ignored == (1 if metadata else 0)


async def test_a_commit_beyond_the_end_begins_at_the_beginning(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    group = document["spec"]["source"]["consumerGroup"]
    await produce(kafka.bootstrap, source, numbered(20))
    far = OffsetAndMetadata(1000, encode(1000, Progress(1005, (1002,))))
    await commit(kafka.bootstrap, group, {TopicPartition(source, 0): far})
    async with WorkerProcess(tmp_path, document) as worker:
        await until(lambda: len(flow.answered) == 20)

        await worker.commits(20, what="the commit goes back to where the messages are")
        assert await worker.terminate() == 0
    assert sorted(flow.inputs) == values(numbered(20))


async def test_a_topic_that_was_made_anew_while_nobody_looked(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """The broker forgets the commits of a topic that is deleted; those of a restored group stay."""
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, numbered(50))
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        assert await worker.terminate() == 0
    await delete_topics(kafka.bootstrap, source)
    await create_topics(kafka.bootstrap, source, partitions=1)
    await produce(kafka.bootstrap, source, numbered(30, "new"))
    async with WorkerProcess(tmp_path, document, "worker-1") as worker:
        await worker.works_off(source)
        assert await worker.terminate() == 0
    assert sorted(flow.inputs) == values([*numbered(50), *numbered(30, "new")])


@pytest.mark.slow
async def test_a_topic_that_is_made_anew_under_a_worker(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """With more messages than before: the old position would be a valid one."""
    count = 80
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, numbered(50))
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        await delete_topics(kafka.bootstrap, source)
        await create_topics(kafka.bootstrap, source, partitions=1)
        await produce(kafka.bootstrap, source, numbered(count, "new"))

        def all_called() -> bool:
            return set(values(numbered(count, "new"))) <= set(flow.inputs)

        await until(all_called, 120, "every message of the new topic is called")
        await worker.works_off(source)
        assert await worker.terminate() == 0
    assert sorted(flow.inputs) == values([*numbered(50), *numbered(count, "new")])
    found = await committed(kafka.bootstrap, worker.group)
    assert found[TopicPartition(source, 0)][0] == count


@pytest.mark.xfail(
    strict=True,
    reason="aiokafka knows no topic ids: the old position goes on in the new topic",
)
async def test_a_topic_that_is_made_anew_while_its_worker_stands_still(
    kafka: KafkaBroker, topic: TopicFactory, tmp_path: Path, flow: FlowServer
) -> None:
    """As while the network or the node is gone: the worker never sees the topic missing."""
    source = await topic(1)
    document = manifest(kafka.bootstrap, source, {"flow": flow.spec()})
    await produce(kafka.bootstrap, source, numbered(50))
    async with WorkerProcess(tmp_path, document) as worker:
        await worker.works_off(source)
        worker.process.send_signal(signal.SIGSTOP)
        await delete_topics(kafka.bootstrap, source)
        await create_topics(kafka.bootstrap, source, partitions=1)
        await produce(kafka.bootstrap, source, numbered(80, "new"))
        worker.process.send_signal(signal.SIGCONT)
        await until(lambda: "new79" in flow.inputs, 100)
        await worker.works_off(source)
        assert await worker.terminate() == 0
    assert set(flow.inputs) >= set(values(numbered(80, "new")))
