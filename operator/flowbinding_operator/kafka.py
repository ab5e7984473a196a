"""The few Kafka requests that the operator makes, many partitions and groups at a time.

aiokafka's consumer and admin client cannot do it. The one looks up unknown topics one after
another (20 s for 1,200 partitions), keeps asking for the metadata of all topics, and may create a
topic that it only asks for; the other has no ListOffsets; and both hide why a broker refused. So
this speaks aiokafka's protocol classes over its connections.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason
from flowbinding_operator.lag import Commit, Partition, Trouble

LATEST, EARLIEST = -1, -2
READ_UNCOMMITTED, READ_COMMITTED = 0, 1
REQUEST_MS = 5000
IDLE_MS = 240_000
SLOW_SECONDS = 1.0
REFUSE_SECONDS = 5.0
"""For so long after a slow failure to connect to a broker, requests to it fail at once."""
API_NAMES = {"Offset": "ListOffsets"}
"""Kafka's names of requests, where aiokafka has others."""
EMPTY_GROUP = ("Empty", "Dead")

UNKNOWN_TOPIC, TOPIC_DENIED, GROUP_DENIED = 3, 29, 30
NO_SUCH_GROUP = 69
MOVED_COORDINATOR = (14, 15, 16)
"""Loading, not available, not the coordinator."""
JOINED = (22, 25, 27)
"""Of a commit from outside: the group has members by now. Generation, member, rebalance."""

AUTHENTICATION_ERRORS = (
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.ClusterAuthorizationFailedError,
)


class ClusterError(FlowBindingError):
    """A Kafka cluster could not be asked; `reason` is a condition's."""

    retriable = True

    def __init__(self, message: str, reason: Reason = Reason.KAFKA_UNREACHABLE) -> None:
        super().__init__(message, reason=reason)

    @property
    def trouble(self) -> Trouble:
        """For an observation."""
        return Trouble(Reason(self.reason), str(self))


class MovedError(ClusterError):
    """Things have changed since they were looked up: look them up and try again."""


@dataclass(slots=True)
class Layout:
    """Which broker leads what.

    Attributes:
        leaders: Node of every partition; -1 while it has none.
        troubles: What is wrong with a topic, by name.
    """

    leaders: dict[Partition, int] = field(default_factory=dict)
    troubles: dict[str, Trouble] = field(default_factory=dict)
    _by_topic: dict[str, list[Partition]] = field(default_factory=dict)

    def partitions(self, topics: Iterable[str]) -> list[Partition]:
        """All partitions of some topics, in their order: brokers answer in any. No more may come.

        Asked for every binding at every look, so that it must not go through all of the cluster's.
        """
        if not self._by_topic:
            for partition in sorted(self.leaders):
                self._by_topic.setdefault(partition.topic, []).append(partition)
        return [p for topic in dict.fromkeys(topics) for p in self._by_topic.get(topic, ())]


class KafkaLink:
    """Connections to one cluster, made when needed. Safe for concurrent requests.

    Args:
        options: aiokafka's client options, see `flowbinding_api.kafka_options`.
        clock: Steady seconds.
        asked: Told the name of each request that is sent.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        clock: Callable[[], float] = time.monotonic,
        asked: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._options = dict(options)
        self._bootstrap = str(self._options.pop("bootstrap_servers"))
        self._options.setdefault("client_id", "flowbinding-operator")
        self._options["request_timeout_ms"] = REQUEST_MS
        self._brokers: dict[int, tuple[str, int]] = {}
        self._connections: dict[int, Any] = {}
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._coordinators: dict[str, int] = {}
        self._clock = clock
        self._asked = asked
        self._refused: dict[int, tuple[float, ClusterError]] = {}

    async def close(self) -> None:
        """Close all connections."""
        open_ones = [c.close() for c in self._connections.values()]
        self._connections.clear()
        await asyncio.gather(*(future for future in open_ones if future is not None))

    async def layout(self, topics: Iterable[str]) -> Layout:
        """Partitions and leaders of topics, in one request. Never creates a topic."""
        names = sorted(set(topics))
        answer = await self._send_any(MetadataRequest(names, allow_auto_topic_creation=False))
        self._brokers = {broker[0]: (broker[1], broker[2]) for broker in answer.brokers}
        layout = Layout()
        for error, topic, _, partitions in answer.topics:
            trouble = _topic_trouble(error, topic, self._bootstrap)
            if trouble is not None:
                layout.troubles[topic] = trouble
            for _, number, leader, *_ in partitions:
                layout.leaders[Partition(topic, number)] = leader
        return layout

    async def offsets(
        self,
        layout: Layout,
        partitions: Iterable[Partition],
        which: int,
        *,
        open_too: bool = False,
    ) -> dict[Partition, int]:
        """End (LATEST) or start (EARLIEST) offsets, with one request for each leading broker.

        Partitions without an answer are missing from the result.

        Args:
            layout: Who leads what.
            partitions: Whose offsets.
            which: EARLIEST or LATEST.
            open_too: Whether messages of transactions that are still open count too. Workers do not
                get them, so that they are no lag.

        Raises:
            ClusterError: When no broker answered.
        """
        by_leader: defaultdict[int, list[Partition]] = defaultdict(list)
        for partition in partitions:
            by_leader[layout.leaders.get(partition, -1)].append(partition)
        by_leader.pop(-1, None)
        answers = await asyncio.gather(
            *(self._offsets(node, items, which, open_too) for node, items in by_leader.items()),
            return_exceptions=True,
        )
        result: dict[Partition, int] = {}
        failures = []
        for answer in answers:
            if isinstance(answer, dict):
                result |= answer
            elif isinstance(answer, ClusterError):
                failures.append(answer)
            else:
                raise answer
        if failures and not result:
            raise failures[0]
        return result

    async def committed(self, group: str) -> dict[Partition, Commit]:
        """All committed offsets of a group, with their metadata.

        Raises:
            ClusterError: Also when the group may not be read.
        """
        answer = await self._send_coordinator(group, OffsetFetchRequest(group, None))
        _check_group(answer.error_code, group)
        commits = {}
        for topic, partitions in answer.topics:
            for number, offset, metadata, error in partitions:
                _check_group(error, group)
                if offset >= 0:
                    commits[Partition(topic, number)] = Commit(offset, metadata or "")
        return commits

    async def is_empty(self, group: str) -> bool:
        """Whether a group has no members, so that others may commit for it."""
        answer = await self._send_coordinator(group, DescribeGroupsRequest([group]))
        error, _, state, *_ = answer.groups[0]
        if error == NO_SUCH_GROUP:
            return True
        _check_group(error, group)
        return state in EMPTY_GROUP

    async def commit(self, group: str, commits: Mapping[Partition, Commit]) -> None:
        """Commit for a group without members."""
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
        answer = await self._send_coordinator(group, request)
        for _, partitions in answer.topics:
            for _, error in partitions:
                if error in JOINED:
                    raise MovedError(f"consumer group {group!r} has members by now")
                _check_group(error, group)

    async def ask_controller(self, request: Any) -> Any:
        """Send a request to the cluster's controller; its answer.

        Raises:
            ClusterError: When it does not answer.
        """
        about = await self._send_any(MetadataRequest([], allow_auto_topic_creation=False))
        self._brokers = {broker[0]: (broker[1], broker[2]) for broker in about.brokers}
        return await self._send(about.controller_id, request)

    async def _offsets(
        self, node: int, partitions: list[Partition], which: int, open_too: bool
    ) -> dict[Partition, int]:
        by_topic: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for topic, number in partitions:
            by_topic[topic].append((number, which))
        isolation = READ_UNCOMMITTED if open_too else READ_COMMITTED
        answer = await self._send(node, OffsetRequest(-1, isolation, list(by_topic.items())))
        return {
            Partition(topic, number): offset
            for topic, items in answer.topics
            for number, error, _, offset in items
            if error == 0
        }

    async def _send_coordinator(self, group: str, request: Any) -> Any:
        node = self._coordinators.get(group)
        if node is None:
            answer = await self._send_any(FindCoordinatorRequest(group, 0))
            _check_group(answer.error_code, group)
            node = answer.coordinator_id
            self._brokers.setdefault(node, (answer.host, answer.port))
            self._coordinators[group] = node
        try:
            answer = await self._send(node, request)
        except ClusterError:
            self._coordinators.pop(group, None)
            raise
        if _first_error(answer) in MOVED_COORDINATOR:
            self._coordinators.pop(group, None)
        return answer

    async def _send_any(self, request: Any) -> Any:
        """Ask any broker: one that is connected, one that is known, or a bootstrap server."""
        connected = [node for node, conn in self._connections.items() if conn.connected()]
        for node in connected or random.sample(sorted(self._brokers), len(self._brokers)):
            try:
                return await self._send(node, request)
            except ClusterError as error:
                logging.getLogger(__name__).debug("broker %s: %s", node, error)
        return await self._send_bootstrap(request)

    async def _send_bootstrap(self, request: Any) -> Any:
        failure = ClusterError(f"no Kafka broker at {self._bootstrap}")
        for host, port, _ in collect_hosts(self._bootstrap):
            try:
                connection = await self._connect(host, port)
            except ClusterError as error:
                failure = error
                continue
            try:
                return await self._ask(connection, request, f"{host}:{port}")
            finally:
                connection.close()
        raise failure

    async def _send(self, node: int, request: Any) -> Any:
        async with self._locks[node]:
            connection = self._connections.get(node)
            if connection is None or not connection.connected():
                if node not in self._brokers:
                    raise MovedError(f"Kafka broker {node} of {self._bootstrap} is not known")
                connection = await self._connect_node(node)
        return await self._ask(connection, request, f"{connection.host}:{connection.port}")

    async def _ask(self, connection: Any, request: Any, address: str) -> Any:
        name = type(request).__name__.partition("Request")[0]
        self._asked(API_NAMES.get(name, name))
        return await _ask(connection, request, address)

    async def _connect_node(self, node: int) -> Any:
        """Connect to a known broker, whose lock is held.

        Whoever waits for the lock meanwhile would wait as long again, one after another, for a
        broker that drops packets: they get what the first one got. A broker that refuses at once,
        as it does while it restarts, costs nobody anything, and may be there the next moment.
        """
        address = self._brokers[node]
        until, failure = self._refused.get(node, (float("-inf"), None))
        if failure is not None and self._clock() < until:
            raise ClusterError(str(failure), Reason(failure.reason))
        began = self._clock()
        try:
            connection = await self._connect(*address)
        except ClusterError as error:
            now = self._clock()
            if now - began >= SLOW_SECONDS:
                self._refused[node] = (now + REFUSE_SECONDS, error)
            raise
        self._refused.pop(node, None)
        self._connections[node] = connection
        return connection

    async def _connect(self, host: str, port: int) -> Any:
        try:
            return await create_conn(host, port, max_idle_ms=IDLE_MS, **self._options)
        except AUTHENTICATION_ERRORS as error:
            message = f"Kafka at {host}:{port} refused the login: {error}"
            raise ClusterError(message, Reason.KAFKA_UNAUTHORIZED) from None
        except ssl.SSLError as error:
            raise ClusterError(f"TLS to Kafka at {host}:{port} failed: {error}") from None
        except (OSError, TimeoutError, kafka_errors.KafkaError) as error:
            text = str(error) or type(error).__name__
            raise ClusterError(f"Kafka at {host}:{port} does not answer: {text}") from None
        except (ValueError, OverflowError) as error:
            # Names with empty or too long labels, ports beyond 65535: brokers may advertise them.
            raise ClusterError(f"{host}:{port} is no address of a Kafka broker: {error}") from None


async def _ask(connection: Any, request: Any, address: str) -> Any:
    try:
        return await connection.send(request)
    except TimeoutError:
        # Whatever is still in flight on it would wait just as long.
        connection.close()
        raise ClusterError(f"Kafka at {address} did not answer in time") from None
    except (OSError, kafka_errors.KafkaError) as error:
        raise ClusterError(f"Kafka at {address}: {str(error) or type(error).__name__}") from None


def _first_error(answer: Any) -> int:
    """The error code of a group's answer, wherever that kind of answer has it."""
    if hasattr(answer, "groups"):
        return int(answer.groups[0][0])
    codes = [item[-1] for _, items in answer.topics for item in items]
    return int(getattr(answer, "error_code", 0) or next(filter(None, codes), 0))


def _topic_trouble(error: int, topic: str, bootstrap: str) -> Trouble | None:
    if error == TOPIC_DENIED:
        message = f"no permission to describe topic {topic!r} on {bootstrap}"
        return Trouble(Reason.TOPIC_UNAUTHORIZED, message)
    if error == UNKNOWN_TOPIC:
        return Trouble(Reason.TOPIC_MISSING, f"topic {topic!r} does not exist on {bootstrap}")
    if error:
        name = kafka_errors.for_code(error).__name__
        return Trouble(Reason.KAFKA_UNREACHABLE, f"topic {topic!r} on {bootstrap}: {name}")
    return None


def _check_group(error: int, group: str) -> None:
    if error == 0:
        return
    name = kafka_errors.for_code(error).__name__
    if error in MOVED_COORDINATOR:
        raise MovedError(f"consumer group {group!r}: {name}")
    denied = error in (GROUP_DENIED, TOPIC_DENIED)
    reason = Reason.KAFKA_UNAUTHORIZED if denied else Reason.KAFKA_UNREACHABLE
    text = "no permission to read or commit offsets" if denied else name
    raise ClusterError(f"consumer group {group!r}: {text}", reason)
