"""What the operator asks about many groups at once: the same answers as about one at a time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbinding_api.reasons import Reason
from flowbinding_operator import kafka_groups
from flowbinding_operator.kafka import ClusterError, KafkaLink, MovedError
from flowbinding_operator.kafka_groups import Committed, batches
from flowbinding_operator.lag import Commit, Partition

OLD = {8: (2, 3), 9: (1, 7), 10: (0, 3), 15: (0, 2)}
"""Versions of OffsetCommit, OffsetFetch, FindCoordinator and DescribeGroups before Kafka 3.0."""
NEW = {8: (2, 9), 9: (1, 9), 10: (0, 5), 15: (0, 5)}

Partitions = Mapping[int, tuple[int, str | None]]


@dataclass
class Group:
    """A group as its coordinator knows it.

    Attributes:
        code: What is wrong with it.
        commits: Of each topic's partitions, offset and metadata.
    """

    node: int = 1
    code: int = 0
    lookup: int = 0
    state: str = "Empty"
    commits: Mapping[str, Partitions] = field(default_factory=dict)


class Broker:
    """A connection to one: what is sent and answered goes through the wire's format."""

    def __init__(
        self, node: int, groups: Mapping[str, Group], versions: Mapping[int, tuple[int, int]]
    ) -> None:
        self.host, self.port, self.node = f"kafka-{node}", 9092, node
        self.groups, self.versions = groups, versions
        self.asked: list[str] = []
        self.failure: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.forgets: set[str] = set()

    def connected(self) -> bool:
        return True

    def close(self) -> None:
        self.asked.append("close")

    def send(self, request: Any) -> Awaitable[Any]:
        sent = request.prepare(self.versions)
        assert type(sent).decode(sent.encode()) == sent
        name = type(sent).__name__.strip("_").split("V")[0].split("Request")[0]
        self.asked.append(name)
        return self._answer(sent, name)

    async def _answer(self, sent: Any, name: str) -> Any:
        if name == "OffsetFetch" and self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        answer = sent.RESPONSE_TYPE(*getattr(self, f"_{name}_{sent.API_VERSION}")(sent))
        return sent.RESPONSE_TYPE.decode(BytesIO(answer.encode()))

    def _FindCoordinator_1(self, sent: Any) -> tuple[Any, ...]:  # noqa: N802 - Kafka's name
        group = self.groups[sent.coordinator_key]
        return 0, group.lookup, None, group.node, f"kafka-{group.node}", 9092

    def _FindCoordinator_4(self, sent: Any) -> tuple[Any, ...]:  # noqa: N802
        found = [(key, self.groups[key]) for key in sent.keys]
        return 0, [(k, g.node, f"kafka-{g.node}", 9092, g.lookup, None, {}) for k, g in found], {}

    def _OffsetFetch_3(self, sent: Any) -> tuple[Any, ...]:  # noqa: N802
        assert sent.topics is None
        group = self.groups[sent.consumer_group]
        topics = [
            (topic, [(number, *row, 0) for number, row in rows.items()])
            for topic, rows in group.commits.items()
        ]
        return 0, topics, group.code

    def _OffsetFetch_8(self, sent: Any) -> tuple[Any, ...]:  # noqa: N802
        assert not sent.require_stable
        groups = []
        for name, topics, _ in sent.groups:
            assert topics is None
            group = self.groups[name]
            found: list[Any] = [
                (topic, [(n, offset, -1, text, 0, {}) for n, (offset, text) in rows.items()], {})
                for topic, rows in group.commits.items()
            ]
            if name not in self.forgets:
                groups.append((name, found, group.code, {7: b"\x01x"}))
        return 0, groups, {}

    def _DescribeGroups_0(self, sent: Any) -> tuple[Any, ...]:  # noqa: N802
        found = [(name, self.groups[name]) for name in sent.groups]
        return ([(g.code, name, g.state, "", "", []) for name, g in found],)

    def _DescribeGroups_3(self, sent: Any) -> tuple[Any, ...]:  # noqa: N802
        (groups,) = self._DescribeGroups_0(sent)
        return 0, [(*group, -2147483648) for group in groups]


class Cluster:
    """A link to two brokers."""

    def __init__(
        self, groups: Mapping[str, Group], versions: Mapping[int, tuple[int, int]] = NEW
    ) -> None:
        self.link = KafkaLink({"bootstrap_servers": "kafka:9092"})
        self.brokers = {node: Broker(node, groups, versions) for node in (1, 2)}
        self.link._connections |= self.brokers
        self.calls: list[Collection[str]] = []
        self.taken = asyncio.Event()

    async def committed(self, groups: Collection[str]) -> dict[str, Committed]:
        found: dict[str, Committed] = {}

        async def take(answers: Mapping[str, Committed]) -> None:
            assert not answers.keys() & found.keys()
            self.calls.append(list(answers))
            found.update(answers)
            self.taken.set()

        await self.link.committed(dict.fromkeys(groups, 6), take)
        return found

    def asked(self, name: str) -> int:
        return sum(broker.asked.count(name) for broker in self.brokers.values())


def plain(found: Mapping[str, Committed | bool | ClusterError]) -> dict[str, object]:
    """Errors by what they say."""
    return {
        group: (type(one), str(one), one.reason) if isinstance(one, ClusterError) else one
        for group, one in found.items()
    }


rows = st.dictionaries(
    st.integers(0, 9),
    st.tuples(st.integers(-1, 2**62), st.one_of(st.none(), st.text(max_size=200))),
    max_size=4,
)
codes = st.sampled_from([0, 0, 0, 14, 15, 16, 29, 30, 69, 7])
some_groups = st.dictionaries(
    st.text(min_size=1, max_size=20),
    st.builds(
        Group,
        node=st.sampled_from([1, 2]),
        code=codes,
        lookup=st.sampled_from([0, 0, 0, 15, 30]),
        state=st.sampled_from(["Empty", "Dead", "Stable", "PreparingRebalance"]),
        commits=st.dictionaries(st.sampled_from(["orders", "übrige", "a.b"]), rows, max_size=3),
    ),
    max_size=12,
)


@given(some_groups)
def test_many_at_once_get_the_answers_that_each_gets_alone(groups: Mapping[str, Group]) -> None:
    async def both() -> list[dict[str, object]]:
        results = []
        for versions in (OLD, NEW):
            cluster = Cluster(groups, versions)
            results.append(plain(await cluster.committed(groups)))
            results.append(plain(await cluster.link.empty(groups)))
        return results

    one_by_one, empty_alone, together, empty_together = asyncio.run(both())
    assert together == one_by_one
    assert together.keys() == groups.keys()
    assert empty_together == empty_alone


async def test_five_hundred_groups_cost_a_few_requests() -> None:
    groups = {f"g{n}": Group(node=1 + n % 2, commits={"orders": {0: (n, "x")}}) for n in range(500)}
    cluster = Cluster(groups)
    assert await cluster.committed(groups) == {
        f"g{n}": {Partition("orders", 0): Commit(n, "x")} for n in range(500)
    }
    assert (cluster.asked("FindCoordinator"), cluster.asked("OffsetFetch")) == (3, 4)
    await cluster.committed(groups)
    assert (cluster.asked("FindCoordinator"), cluster.asked("OffsetFetch")) == (3, 8)


async def test_what_is_wrong_with_one_group_is_said_of_it_alone() -> None:
    groups = {
        "fine": Group(commits={"orders": {0: (5, None), 1: (-1, "")}}),
        "denied": Group(code=30),
        "unknown": Group(code=69),
        "loading": Group(code=14),
        "nowhere": Group(lookup=15),
        "forgotten": Group(),
    }
    cluster = Cluster(groups)
    cluster.brokers[1].forgets.add("forgotten")
    found = await cluster.committed(groups)
    assert found["fine"] == {Partition("orders", 0): Commit(5, "")}
    assert found["unknown"] == {}
    denied = found["denied"]
    assert isinstance(denied, ClusterError)
    assert denied.reason == Reason.KAFKA_UNAUTHORIZED
    assert str(denied) == "consumer group 'denied': no permission to read or commit offsets"
    assert isinstance(found["loading"], MovedError)
    assert isinstance(found["nowhere"], MovedError)
    assert "says nothing of it" in str(found["forgotten"])
    # Only those are looked up again that have, or had, no coordinator.
    cluster.brokers[1].asked.clear()
    groups["loading"].code = groups["nowhere"].lookup = 0
    found = await cluster.committed(groups)
    assert (found["loading"], found["nowhere"]) == ({}, {})
    assert cluster.asked("FindCoordinator") == 1


async def test_a_coordinator_that_keeps_silent_delays_no_other_s_groups() -> None:
    groups = {"here": Group(), "there": Group(node=2), "also": Group()}
    cluster = Cluster(groups)
    cluster.brokers[2].hold = asyncio.Event()
    reading = asyncio.create_task(cluster.committed(groups))
    await cluster.taken.wait()
    assert cluster.calls == [["here", "also"]]
    assert not reading.done()
    cluster.brokers[2].failure = TimeoutError()
    cluster.brokers[2].hold.set()
    found = await reading
    assert found["here"] == {}
    assert str(found["there"]) == "Kafka at kafka-2:9092 did not answer in time"
    # Whatever is still in flight on that connection would wait just as long.
    assert "close" in cluster.brokers[2].asked


async def test_new_groups_do_not_delay_those_whose_coordinator_is_known() -> None:
    groups = {"known": Group(), "new": Group(node=2)}
    cluster = Cluster(groups)
    await cluster.committed(["known"])
    cluster.brokers[2].hold = asyncio.Event()
    cluster.taken.clear()
    reading = asyncio.create_task(cluster.committed(groups))
    await cluster.taken.wait()
    assert cluster.calls[1] == ["known"]
    cluster.brokers[2].hold.set()
    assert await reading == {"known": {}, "new": {}}


async def test_a_coordinator_that_is_lost_is_looked_up_again() -> None:
    groups = {"a": Group(), "b": Group()}
    cluster = Cluster(groups)
    await cluster.committed(groups)
    cluster.brokers[1].failure = ConnectionError("gone")
    found = await cluster.committed(groups)
    assert {str(error) for error in found.values()} == {"Kafka at kafka-1:9092: gone"}
    # Brokers restart one after the other: this is no news before it has lasted.
    assert {type(error) for error in found.values()} == {MovedError}
    for group in groups.values():
        group.node = 2
    cluster.brokers[1].failure = None
    assert await cluster.committed(groups) == {"a": {}, "b": {}}
    assert cluster.brokers[2].asked == ["OffsetFetch"]


async def test_a_coordinator_that_refuses_the_login_is_told_at_once() -> None:
    cluster = Cluster({"a": Group()})
    cluster.brokers[1].failure = ClusterError("refused", Reason.KAFKA_UNAUTHORIZED)
    found = (await cluster.link.empty(["a"]))["a"]
    assert not isinstance(found, MovedError)
    assert isinstance(found, ClusterError)
    assert found.reason == Reason.KAFKA_UNAUTHORIZED


async def test_what_the_taker_raises_comes_out() -> None:
    async def take(_: Mapping[str, Committed]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Cluster({"a": Group()}).link.committed({"a": 1}, take)


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 3000), max_size=30), st.integers(1, 8))
def test_batches_are_bounded_and_miss_nothing(groups: Mapping[str, int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kafka_groups, "BATCH_GROUPS", most)
        found = list(batches(groups))
    assert [group for batch in found for group in batch] == list(groups)
    for batch in found:
        assert 1 <= len(batch) <= most
        size = sum(groups[group] for group in batch)
        assert size <= kafka_groups.BATCH_PARTITIONS or len(batch) == 1
    for one, following in itertools.pairwise(found):
        size = sum(groups[group] for group in one) + groups[following[0]]
        assert len(one) == most or size > kafka_groups.BATCH_PARTITIONS
