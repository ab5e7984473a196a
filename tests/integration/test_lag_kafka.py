"""The operator's Kafka requests against a real broker."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete
from aiokafka.protocol.admin import CreateAclsRequest

import kafkaio
from flowbinding_api.offsets import Figures, Progress, encode
from flowbinding_api.reasons import Reason
from flowbinding_api.spec import StartFrom
from flowbinding_operator.kafka import EARLIEST, LATEST, ClusterError, KafkaLink, MovedError
from flowbinding_operator.kafka_admin import NewTopic, create_topics
from flowbinding_operator.kafka_groups import Committed
from flowbinding_operator.kafka_protocol import FindCoordinatorsRequest, OffsetFetchManyRequest
from flowbinding_operator.lag import Commit, Observation, Partition, Target, Trouble
from flowbinding_operator.metrics import Metrics
from flowbinding_operator.poller import ClusterPoller, LagWatcher
from kafkaio import TopicFactory
from testbed import KafkaBroker

GROUP, LITERAL, ALL, DENY = 3, 3, 2, 2
"""Of Kafka's rules: kinds of resources, patterns, operations and permissions."""


def messages(count: int) -> list[kafkaio.Message]:
    return [(str(number).encode(), b"{}") for number in range(count)]


def poller(bootstrap: str, seen: dict[str, Observation]) -> tuple[ClusterPoller, KafkaLink]:
    link = KafkaLink({"bootstrap_servers": bootstrap})
    return ClusterPoller(link, seen.__setitem__, Metrics(), seconds=2, clock=time.monotonic), link


async def tick(one: ClusterPoller, seen: dict[str, Observation], key: str) -> Observation:
    # The first group of a new broker makes it create its offsets topic.
    for _ in range(40):
        await one._try_tick()
        if not seen[key].blank:
            break
        await asyncio.sleep(0.25)
    return seen[key]


async def committed(link: KafkaLink, *groups: str) -> dict[str, Committed]:
    """What some groups have committed, once their coordinator is there."""
    found: dict[str, Committed] = {}

    async def take(answers: Mapping[str, Committed]) -> None:
        found.update(answers)

    for _ in range(40):
        await link.committed(dict.fromkeys(groups, 4), take)
        if not any(isinstance(one, MovedError) for one in found.values()):
            break
        await asyncio.sleep(0.25)
    return found


async def test_seeding_lag_and_figures(kafka: KafkaBroker, topic: TopicFactory) -> None:
    name = await topic(partitions=4)
    await kafkaio.produce(kafka.bootstrap, name, messages(40))
    seen: dict[str, Observation] = {}
    one, link = poller(kafka.bootstrap, seen)
    early = Target("ns/early", f"{name}.early", (name,), workers=1)
    late = Target("ns/late", f"{name}.late", (name,), StartFrom.LATEST, workers=1)
    one.watch(early)
    one.watch(late)
    try:
        first = await tick(one, seen, early.key)
        assert (first.trouble, first.lag, first.partitions) == (None, 40, 4)
        assert (await tick(one, seen, late.key)).lag == 0
        seeded = (await committed(link, early.group))[early.group]
        assert isinstance(seeded, dict)
        assert len(seeded) == 4
        await kafkaio.produce(kafka.bootstrap, name, messages(10))
        await one._try_tick()
        assert (seen[early.key].lag, seen[late.key].lag) == (50, 10)
        layout = await link.layout([name])
        ends = await link.offsets(layout, layout.leaders, LATEST)
        figures = Figures(1, 10, seconds_per_message=0.2)
        done = {p: Commit(end, encode(end, Progress(end), figures)) for p, end in ends.items()}
        await link.commit(early.group, done)
        await one._try_tick()
        assert seen[early.key].lag == 0
        assert seen[early.key].summary.seconds_per_message == pytest.approx(0.2)
    finally:
        await link.close()


async def test_start_offsets_after_deletion(kafka: KafkaBroker, topic: TopicFactory) -> None:
    name = await topic(partitions=1)
    await kafkaio.produce(kafka.bootstrap, name, messages(10))
    async with kafkaio.admin(kafka.bootstrap) as admin:
        await admin.delete_records({TopicPartition(name, 0): RecordsToDelete(7)})
    link = KafkaLink({"bootstrap_servers": kafka.bootstrap})
    try:
        layout = await link.layout([name])
        assert await link.offsets(layout, layout.leaders, EARLIEST) == {Partition(name, 0): 7}
    finally:
        await link.close()


async def test_a_group_with_members_is_not_empty(kafka: KafkaBroker, topic: TopicFactory) -> None:
    name = await topic(partitions=2)
    link = KafkaLink({"bootstrap_servers": kafka.bootstrap})
    try:
        nobody, somebody = f"{name}.nobody", f"{name}.g"
        assert await link.empty([nobody]) == {nobody: True}
        consumer = AIOKafkaConsumer(
            name, bootstrap_servers=kafka.bootstrap, group_id=f"{name}.g", enable_auto_commit=False
        )
        await consumer.start()
        try:
            # What is told of the first group's members must not be taken for the second's name.
            groups = (somebody, nobody, f"{name}.other")
            assert list((await link.empty(groups)).items()) == [
                (somebody, False),
                (nobody, True),
                (f"{name}.other", True),
            ]
            with pytest.raises(MovedError, match="has members by now"):
                await link.commit(f"{name}.g", {Partition(name, 0): Commit(0)})
        finally:
            await consumer.stop()
        assert await link.empty([somebody]) == {somebody: True}
    finally:
        await link.close()


async def test_a_missing_topic_is_named_and_not_created(kafka: KafkaBroker) -> None:
    seen: dict[str, Observation] = {}
    one, link = poller(kafka.bootstrap, seen)
    one.watch(Target("ns/b", "g", ("nowhere",)))
    try:
        await one._try_tick()
        trouble = seen["ns/b"].trouble
        assert trouble is not None
        assert trouble.reason is Reason.TOPIC_MISSING
        async with kafkaio.admin(kafka.bootstrap) as admin:
            assert "nowhere" not in await admin.list_topics()
    finally:
        await link.close()


async def test_many_topics_in_one_tick(kafka: KafkaBroker) -> None:
    names = [f"many-{number}" for number in range(30)]
    await kafkaio.create_topics(kafka.bootstrap, *names, partitions=4)
    seen: dict[str, Observation] = {}
    one, link = poller(kafka.bootstrap, seen)
    for name in names:
        one.watch(Target(f"ns/{name}", f"{name}.g", (name,)))
    try:
        began = time.monotonic()
        for name in names:
            # A broker that has just made a topic takes a while to lead it.
            assert (await tick(one, seen, f"ns/{name}")).lag == 0
        first = time.monotonic() - began
        began = time.monotonic()
        await one._try_tick()
        second = time.monotonic() - began
        assert first < 15
        assert second < 1
    finally:
        await link.close()
        await kafkaio.delete_topics(kafka.bootstrap, *names)


async def test_a_broker_that_does_not_answer_is_told_within_fifteen_seconds() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    found: asyncio.Future[Observation] = asyncio.get_running_loop().create_future()

    def report(_: str, observation: Observation) -> None:
        if observation.trouble and not found.done():
            found.set_result(observation)

    watcher = LagWatcher(report, Metrics(), failed=lambda error: found.set_exception(error))
    watcher.watch(Target("ns/b", "g", ("t",)), "c", {"bootstrap_servers": f"127.0.0.1:{port}"})
    try:
        async with asyncio.timeout(15):
            trouble = (await found).trouble
        assert trouble is not None
        assert trouble.reason is Reason.KAFKA_UNREACHABLE
    finally:
        await watcher.close()
        server.close()


async def test_what_a_cluster_with_logins_and_rules_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong password is told apart from a broker that is down, and a group from another."""
    rules = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    users = {"client": "right"}
    with KafkaBroker(tmp_path / "sasl", sasl=True, users=users, properties=rules) as broker:
        options = {
            "bootstrap_servers": broker.bootstrap,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": "client",
        }
        good = KafkaLink({**options, "sasl_plain_password": "right"})
        await good.layout([])
        await many_groups_at_once_or_one_at_a_time(good, monkeypatch)
        await good.close()
        bad = KafkaLink({**options, "sasl_plain_password": "wrong"})
        with pytest.raises(ClusterError) as caught:
            await bad.layout([])
        await bad.close()
    assert caught.value.reason == Reason.KAFKA_UNAUTHORIZED
    down = KafkaLink({**options, "sasl_plain_password": "right"})
    with pytest.raises(ClusterError) as caught:
        await down.layout([])
    assert caught.value.reason == Reason.KAFKA_UNREACHABLE


async def many_groups_at_once_or_one_at_a_time(
    link: KafkaLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All kinds of groups get the same answers, however they are asked about."""
    await create_topics(link.ask_controller, [NewTopic("orders", 3), NewTopic("other", 2)])
    long = "x" * 4096
    commits = {
        "done": {Partition("orders", n): Commit(10 + n, f"FB1{n}") for n in range(3)},
        "half": {Partition("orders", 1): Commit(0), Partition("other", 0): Commit(2**40, long)},
        "denied": {Partition("other", 1): Commit(7)},
        **{f"g{n}": {Partition("other", n % 2): Commit(n, "ü" * n)} for n in range(230)},
    }
    # The topics' leaders may not be known to the coordinator yet.
    async with asyncio.timeout(20):
        while await committed(link, *commits) != commits:
            with suppress(ClusterError):
                await asyncio.gather(*(link.commit(*item) for item in commits.items()))
    deny = CreateAclsRequest(GROUP, "denied", LITERAL, "User:*", "*", ALL, DENY)
    answer = await link.ask_controller(deny)
    assert [code for code, *_ in answer.creation_responses] == [0]
    groups = (*commits, "unknown")
    async with asyncio.timeout(20):
        while not isinstance((await committed(link, "denied"))["denied"], ClusterError):
            pass
    together = await committed(link, *groups)
    assert {g: together[g] for g in commits if g != "denied"} == {
        g: wanted for g, wanted in commits.items() if g != "denied"
    }
    assert together["unknown"] == {}
    monkeypatch.setattr(FindCoordinatorsRequest, "prepare", too_old)
    monkeypatch.setattr(OffsetFetchManyRequest, "prepare", too_old)
    alone = await committed(link, *groups)
    denied, denied_alone = together.pop("denied"), alone.pop("denied")
    assert together == alone
    assert isinstance(denied, ClusterError)
    assert str(denied) == str(denied_alone)
    assert denied.reason == Reason.KAFKA_UNAUTHORIZED


def too_old(*_: object) -> NoReturn:
    """As of a broker before Kafka 3.0."""
    raise NotImplementedError


async def test_a_cluster_that_swallows_packets_delays_no_other(
    kafka: KafkaBroker, topic: TopicFactory
) -> None:
    name = await topic(partitions=2)
    # Its queue is full, so that nobody gets through and nobody is told so.
    hole = socket.create_server(("127.0.0.1", 0), backlog=0)
    stuffing = [socket.socket() for _ in range(4)]
    for end in stuffing:
        end.setblocking(False)
        end.connect_ex(hole.getsockname())
    good: list[Observation] = []
    known = asyncio.Event()
    told: asyncio.Future[Trouble] = asyncio.get_running_loop().create_future()

    def report(key: str, observation: Observation) -> None:
        if key == "ns/good":
            good.append(observation)
            if observation.lag == 0:
                known.set()
        elif observation.trouble and not told.done():
            told.set_result(observation.trouble)

    watcher = LagWatcher(report, Metrics(), seconds=0.1, failed=told.set_exception)
    servers = f"127.0.0.1:{hole.getsockname()[1]}"
    good_one = Target("ns/good", f"{name}.g", (name,))
    watcher.watch(good_one, "kafka", {"bootstrap_servers": kafka.bootstrap})
    try:
        async with asyncio.timeout(60):
            await known.wait()
            good.clear()
            watcher.watch(Target("ns/lost", "g", ("t",)), "hole", {"bootstrap_servers": servers})
            trouble = await told
        assert trouble.reason is Reason.KAFKA_UNREACHABLE
        assert servers in trouble.message
        # Nothing of one cluster's five seconds was another's.
        assert len([seen for seen in good if seen.lag == 0]) >= 5
    finally:
        await watcher.close()
        for end in (*stuffing, hole):
            end.close()


async def test_a_topic_of_transactions_sleeps(kafka: KafkaBroker, topic: TopicFactory) -> None:
    name = await topic(partitions=1)
    seen: dict[str, Observation] = {}
    one, link = poller(kafka.bootstrap, seen)
    target = Target("ns/b", f"{name}.g", (name,), workers=1)
    one.watch(target)
    group = {"bootstrap_servers": kafka.bootstrap, "group_id": target.group}
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=name)
    await producer.start()
    try:
        assert (await tick(one, seen, target.key)).lag == 0
        await producer.begin_transaction()
        for number in range(5):
            await producer.send_and_wait(name, b"%d" % number, partition=0)
        # Nobody gets them yet.
        assert (await tick(one, seen, target.key)).lag == 0
        await producer.commit_transaction()
        # The marker is an offset too.
        async with asyncio.timeout(20):
            while (await tick(one, seen, target.key)).lag != 6:
                pass
        consumer = AIOKafkaConsumer(
            name, isolation_level="read_committed", enable_auto_commit=False, **group
        )
        await consumer.start()
        try:
            async with asyncio.timeout(30):
                while (await tick(one, seen, target.key)).lag != 0:
                    await consumer.getmany(timeout_ms=200)
                    await consumer.commit()
        finally:
            await consumer.stop()
        one.watch(replace(target, workers=0))
        assert (await tick(one, seen, target.key)).lag == 0
    finally:
        await producer.stop()
        await link.close()


async def test_a_topic_that_is_created_anew_and_grows(
    kafka: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowbinding_operator.poller.LAYOUT_SECONDS", 0.0)
    name = "created-anew"
    await kafkaio.create_topics(kafka.bootstrap, name, partitions=2)
    seen: dict[str, Observation] = {}
    one, link = poller(kafka.bootstrap, seen)
    target = Target("ns/b", f"{name}.g", (name,), StartFrom.LATEST)
    one.watch(target)

    async def until_lag(wanted: int, partitions: int) -> None:
        async with asyncio.timeout(30):
            while True:
                found = await tick(one, seen, target.key)
                if (found.lag, found.partitions) == (wanted, partitions):
                    break

    try:
        await until_lag(0, 2)
        await kafkaio.produce(kafka.bootstrap, name, messages(40))
        await until_lag(40, 2)
        layout = await link.layout([name])
        ends = await link.offsets(layout, layout.leaders, LATEST)
        await link.commit(target.group, {p: Commit(end) for p, end in ends.items()})
        await kafkaio.produce(kafka.bootstrap, name, messages(1))
        await until_lag(1, 2)
        await kafkaio.delete_topics(kafka.bootstrap, name)
        async with asyncio.timeout(30):
            while (await tick(one, seen, target.key)).trouble is None:
                pass
        await kafkaio.create_topics(kafka.bootstrap, name, partitions=2)
        await kafkaio.produce(kafka.bootstrap, name, messages(30))
        # All of them, although the binding started at the latest message of another topic.
        await until_lag(30, 2)
        async with kafkaio.admin(kafka.bootstrap) as admin:
            await admin.create_partitions({name: NewPartitions(total_count=3)})
        await until_lag(30, 3)
        await kafkaio.produce(kafka.bootstrap, name, messages(30))
        await until_lag(60, 3)
        seeded = (await committed(link, target.group))[target.group]
        assert isinstance(seeded, dict)
        assert len(seeded) == 3
    finally:
        await link.close()
        await kafkaio.delete_topics(kafka.bootstrap, name)
