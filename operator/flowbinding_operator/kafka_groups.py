"""What the operator asks Kafka about consumer groups: about many in one request.

Each group has a coordinator, the broker that keeps its commits. Whatever is wrong with one group or
one coordinator is said of its groups alone. Brokers before Kafka 3.0 are asked about one group at a
time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import aiokafka.errors as kafka_errors
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from flowbinding_api.reasons import Reason
from flowbinding_operator.kafka_connections import (
    ClusterError,
    Connections,
    MovedError,
    OldBrokerError,
    together,
)
from flowbinding_operator.kafka_protocol import (
    GROUP_KEY,
    DescribeManyRequest,
    FindCoordinatorsRequest,
    OffsetFetchManyRequest,
)
from flowbinding_operator.lag import Commit, Partition

BATCH_GROUPS = 200
BATCH_PARTITIONS = 2000
"""About so many of one request: reading an answer of 2,000 takes 10 ms in which nothing else runs,
and with the longest metadata it has 8 MiB."""
PARALLEL = 64
"""Requests about one group at the same time."""
EMPTY_GROUP = ("Empty", "Dead")

TOPIC_DENIED, GROUP_DENIED = 29, 30
NO_SUCH_GROUP = 69
MOVED_COORDINATOR = (14, 15, 16)
"""Loading, not available, not the coordinator."""
JOINED = (22, 25, 27)
"""Of a commit from outside: the group has members by now. Generation, member, rebalance."""

T = TypeVar("T")
Row = tuple[str, int, int, str | None, int]
"""Topic, partition, committed offset or -1, metadata, error code."""
Committed = dict[Partition, Commit] | ClusterError
"""What a group has committed, or why that is not known."""
Take = Callable[[Mapping[str, Committed]], Awaitable[None]]
"""Given what is known of some groups, by group."""


class Groups(Connections):
    """The requests about groups."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As for `Connections`."""
        super().__init__(*arguments, **named)
        self._coordinators: dict[str, int] = {}

    async def committed(self, groups: Mapping[str, int], take: Take) -> None:
        """Read all that some groups have committed, with its metadata.

        One request for each coordinator and `BATCH_GROUPS` groups (OffsetFetch since KIP-709).

        Args:
            groups: With about how many partitions each has commits of.
            take: Called for some groups as soon as their coordinator has answered, or failed to,
                whatever the others do; in the end each group was in one call.
        """
        known = {group: size for group, size in groups.items() if group in self._coordinators}
        unknown = {group: size for group, size in groups.items() if group not in known}
        await together(*(self._read(batch, take) for batch in (known, unknown) if batch))

    async def empty(self, groups: Collection[str]) -> Mapping[str, bool | ClusterError]:
        """Which groups have no members, so that others may commit for them; or why none knows."""
        nodes, failed = await self._find(groups)
        asked = (self._empty(*batch) for batch in _by_node(nodes, dict.fromkeys(nodes, 1)))
        answers: dict[str, bool | ClusterError] = {}
        for found in (failed, *await asyncio.gather(*asked)):
            answers |= found
        return {group: answers.get(group, _unanswered(group)) for group in groups}

    async def commit(self, group: str, commits: Mapping[Partition, Commit]) -> None:
        """Commit for a group without members.

        Raises:
            ClusterError: Also when the group may not be written.
            MovedError: The group has members by now, or another coordinator.
        """
        by_topic: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for partition, commit in commits.items():
            by_topic[partition.topic].append((partition.partition, *commit))
        request = OffsetCommitRequest(
            group,
            OffsetCommitRequest.DEFAULT_GENERATION_ID,
            "",
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(by_topic.items()),
        )
        nodes, failed = await self._find([group])
        if failed:
            raise failed[group]
        try:
            answer = await self._send(nodes[group], request)
        except ClusterError as error:
            raise self._lost([group], error)[group] from None
        for _, partitions in answer.topics:
            for _, code in partitions:
                if code in JOINED:
                    raise MovedError(f"consumer group {group!r} has members by now")
                if found := self._error(group, code):
                    raise found

    async def _empty(self, node: int, groups: list[str]) -> Mapping[str, bool | ClusterError]:
        try:
            answer = await self._send(node, DescribeManyRequest(groups))
        except ClusterError as error:
            return self._lost(groups, error)
        return {
            group: code == NO_SUCH_GROUP or self._error(group, code) or state in EMPTY_GROUP
            for code, group, state, *_ in answer.groups
        }

    async def _read(self, groups: Mapping[str, int], take: Take) -> None:
        nodes, failed = await self._find(groups)
        reading = [self._read_batch(*batch, take) for batch in _by_node(nodes, groups)]
        await together(*reading, *([_give(take, failed)] if failed else []))

    async def _read_batch(self, node: int, groups: list[str], take: Take) -> None:
        try:
            answer = await self._send(node, OffsetFetchManyRequest(groups))
        except OldBrokerError:
            await each(groups, lambda group: self._read_one(node, group, take))
        except ClusterError as error:
            await take(self._lost(groups, error))
        else:
            answers = {
                group: self._commits(group, code, _rows(topics))
                for group, topics, code, _ in answer.groups
            }
            await take({group: answers.get(group, _unanswered(group)) for group in groups})

    async def _read_one(self, node: int, group: str, take: Take) -> None:
        try:
            answer = await self._send(node, OffsetFetchRequest(group, None))
        except ClusterError as error:
            await take(self._lost([group], error))
        else:
            rows = ((topic, *row) for topic, rows in answer.topics for row in rows)
            await take({group: self._commits(group, answer.error_code, rows)})

    def _commits(self, group: str, code: int, rows: Iterable[Row]) -> Committed:
        if code == NO_SUCH_GROUP:
            return {}
        commits: dict[Partition, Commit] = {}
        for topic, number, offset, metadata, bad in rows:
            code = code or bad
            if offset >= 0:
                commits[Partition(topic, number)] = Commit(offset, metadata or "")
        return self._error(group, code) or commits

    async def _find(
        self, groups: Collection[str]
    ) -> tuple[dict[str, int], dict[str, ClusterError]]:
        """The coordinators of groups, and why some have none."""
        unknown = dict.fromkeys((g for g in groups if g not in self._coordinators), 1)
        failed: dict[str, ClusterError] = {}
        for found in await asyncio.gather(*map(self._look_up, batches(unknown))):
            failed |= {g: error for g, error in found.items() if isinstance(error, ClusterError)}
            self._coordinators |= {g: node for g, node in found.items() if isinstance(node, int)}
        nodes = {g: self._coordinators[g] for g in groups if g in self._coordinators}
        return nodes, {g: failed.get(g, _unanswered(g)) for g in groups if g not in nodes}

    async def _look_up(self, groups: list[str]) -> Mapping[str, int | ClusterError]:
        try:
            answer = await self._send_any(FindCoordinatorsRequest(groups))
        except OldBrokerError:
            return dict(zip(groups, await each(groups, self._look_up_one), strict=True))
        except ClusterError as error:
            return dict.fromkeys(groups, error)
        return {
            group: self._coordinator(group, *found) for group, *found, _, _ in answer.coordinators
        }

    async def _look_up_one(self, group: str) -> int | ClusterError:
        try:
            answer = await self._send_any(FindCoordinatorRequest(group, GROUP_KEY))
        except ClusterError as error:
            return error
        found = (answer.coordinator_id, answer.host, answer.port, answer.error_code)
        return self._coordinator(group, *found)

    def _coordinator(
        self, group: str, node: int, host: str, port: int, code: int
    ) -> int | ClusterError:
        if error := self._error(group, code):
            return error
        self._brokers.setdefault(node, (host, port))
        return node

    def _error(self, group: str, code: int) -> ClusterError | None:
        """What a code says of a group; a coordinator that has moved is looked up next time."""
        if code in MOVED_COORDINATOR:
            self._coordinators.pop(group, None)
        return group_error(group, code)

    def _lost(self, groups: Iterable[str], error: ClusterError) -> dict[str, ClusterError]:
        """No answer of their coordinator, which may be restarting: next time, it is looked up."""
        for group in groups:
            self._coordinators.pop(group, None)
        away = error.reason == Reason.KAFKA_UNREACHABLE
        return dict.fromkeys(groups, MovedError(str(error)) if away else error)


async def each(groups: Iterable[str], ask: Callable[[str], Awaitable[T]]) -> list[T]:
    """Ask about groups one at a time, `PARALLEL` at the same time; the answers in their order."""
    limit = asyncio.Semaphore(PARALLEL)

    async def one(group: str) -> T:
        async with limit:
            return await ask(group)

    return await asyncio.gather(*map(one, groups))


def batches(groups: Mapping[str, int]) -> Iterator[list[str]]:
    """Groups for one request each, in their order.

    Args:
        groups: With about how many partitions each has; one with more than fit is alone.
    """
    batch: list[str] = []
    size = 0
    for group, partitions in groups.items():
        if batch and (len(batch) == BATCH_GROUPS or size + partitions > BATCH_PARTITIONS):
            yield batch
            batch, size = [], 0
        batch.append(group)
        size += partitions
    if batch:
        yield batch


def group_error(group: str, code: int) -> ClusterError | None:
    """What one of Kafka's error codes says of a group; None of none."""
    if code == 0:
        return None
    name = kafka_errors.for_code(code).__name__
    if code in MOVED_COORDINATOR:
        return MovedError(f"consumer group {group!r}: {name}")
    denied = code in (GROUP_DENIED, TOPIC_DENIED)
    reason = Reason.KAFKA_UNAUTHORIZED if denied else Reason.KAFKA_UNREACHABLE
    text = "no permission to read or commit offsets" if denied else name
    return ClusterError(f"consumer group {group!r}: {text}", reason)


def _by_node(nodes: Mapping[str, int], sizes: Mapping[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Batches of groups, each with the broker to ask."""
    of_node: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for group, node in nodes.items():
        of_node[node][group] = sizes[group]
    for node, groups in of_node.items():
        for batch in batches(groups):
            yield node, batch


def _rows(topics: Iterable[Any]) -> Iterator[Row]:
    for topic, partitions, _ in topics:
        for number, offset, _, metadata, code, _ in partitions:
            yield topic, number, offset, metadata, code


def _unanswered(group: str) -> ClusterError:
    return MovedError(f"consumer group {group!r}: its coordinator says nothing of it")


async def _give(take: Take, answers: Mapping[str, Committed]) -> None:
    await take(answers)
