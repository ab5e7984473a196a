"""The operator's Kafka client, as far as it needs no broker."""

from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from flowbinding_api.kafka import BootstrapServers
from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka import ClusterError, KafkaLink, MovedError
from flowbinding_operator.kafka_admin import NewTopic, create_topics
from flowbinding_operator.lag import Commit, Partition


@pytest.mark.parametrize("host", ["kafka..svc", "k" * 64 + ".svc"])
async def test_a_name_that_cannot_be_resolved_is_trouble_of_its_cluster(host: str) -> None:
    link = KafkaLink({"bootstrap_servers": f"{host}:9092"})
    with pytest.raises(ClusterError, match="no address") as caught:
        await link.layout(["orders"])
    assert caught.value.reason == Reason.KAFKA_UNREACHABLE


async def test_so_is_one_that_a_broker_advertises() -> None:
    link = KafkaLink({"bootstrap_servers": "kafka:9092"})
    link._brokers = {1: ("kafka..svc", 9092), 2: ("127.0.0.1", 70000)}
    for node in link._brokers:
        with pytest.raises(ClusterError, match="no address"):
            await link._send(node, None)


@pytest.mark.parametrize(
    "servers",
    ["a:1", "kafka-0.kafka.svc.:9092", "10.0.0.1:65535,[2001:db8::1]:9092", "k" * 63 + ".svc:1"],
)
def test_what_names_brokers(servers: str) -> None:
    assert TypeAdapter(BootstrapServers).validate_python(servers) == servers


@pytest.mark.parametrize(
    "servers",
    ["a", "a:0", "a:65536", "a..b:1", ".a:1", "k" * 64 + ":1", "::1:9092", "a:1,", "a:1, b:1"],
)
def test_what_does_not(servers: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(BootstrapServers).validate_python(servers)


class SlowLink(KafkaLink):
    """No connect succeeds, and each takes a while of a clock that is set by hand."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now, self.connects = 1000.0, 0
        super().__init__({"bootstrap_servers": "kafka:9092"}, lambda: self.now)
        self._brokers = {1: ("kafka-1", 9092), 2: ("kafka-2", 9092)}

    async def _connect(self, host: str, port: int) -> Any:
        self.connects += 1
        await asyncio.sleep(0)
        self.now += self.seconds
        raise ClusterError(f"{host} does not answer")


async def test_one_black_hole_costs_one_connect_however_many_wait_for_it() -> None:
    link = SlowLink(seconds=5)
    answers = await asyncio.gather(
        *(link._send(1, None) for _ in range(20)), return_exceptions=True
    )
    assert [str(answer) for answer in answers] == ["kafka-1 does not answer"] * 20
    assert (link.connects, link.now) == (1, 1005)
    link.now += 4
    with pytest.raises(ClusterError):
        await link._send(1, None)
    assert link.connects == 1
    # Another broker is another matter, and after a while the first one gets another chance.
    with pytest.raises(ClusterError, match="kafka-2"):
        await link._send(2, None)
    assert link.connects == 2
    with pytest.raises(ClusterError):
        await link._send(1, None)
    assert link.connects == 3


async def test_a_broker_that_refuses_at_once_is_asked_again_at_once() -> None:
    link = SlowLink(seconds=0.01)
    for _ in range(3):
        with pytest.raises(ClusterError):
            await link._send(1, None)
    assert link.connects == 3


class Refusing:
    """A coordinator that answers every commit with a code."""

    host, port = "kafka-1", 9092

    def __init__(self, code: int) -> None:
        self.code = code

    def connected(self) -> bool:
        return True

    async def send(self, _: Any) -> Any:
        return SimpleNamespace(topics=[("orders", [(0, self.code)])])


@pytest.mark.parametrize("code", [22, 25, 27])
async def test_a_worker_that_joins_before_the_seeds_are_committed_is_no_trouble(code: int) -> None:
    link = KafkaLink({"bootstrap_servers": "kafka:9092"})
    link._coordinators["shop.risk"] = 1
    link._connections[1] = Refusing(code)
    with pytest.raises(MovedError, match="has members by now"):
        await link.commit("shop.risk", {Partition("orders", 0): Commit(0)})


class Old:
    """A connection to a broker before Kafka 2.4."""

    host, port = "kafka-1", 9092

    def connected(self) -> bool:
        return True

    def send(self, request: Any) -> Any:
        return request.prepare({19: (0, 3)})


async def test_a_broker_that_is_too_old_for_a_request_is_named_and_not_asked() -> None:
    asked: list[str] = []
    link = KafkaLink({"bootstrap_servers": "kafka:9092"}, asked=asked.append)
    link._connections[1] = Old()
    with pytest.raises(ClusterError) as caught:
        await create_topics(partial(link._send, 1), [NewTopic("orders")])
    assert str(caught.value) == (
        "Kafka at kafka-1:9092 is too old: it does not know this version of CreateTopics"
    )
    assert asked == []
