"""Connections to a Kafka cluster's brokers, and requests over them."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiokafka.errors as kafka_errors
from aiokafka.conn import collect_hosts, create_conn

from flowbinding_api.errors import FlowBindingError
from flowbinding_api.reasons import Reason
from flowbinding_operator.lag import Trouble

REQUEST_MS = 5000
IDLE_MS = 240_000
SLOW_SECONDS = 1.0
REFUSE_SECONDS = 5.0
"""For so long after a slow failure to connect to a broker, requests to it fail at once."""
API_NAMES = {
    "DescribeMany": "DescribeGroups",
    "FindCoordinators": "FindCoordinator",
    "Offset": "ListOffsets",
    "OffsetFetchMany": "OffsetFetch",
    "_CreateTopics": "CreateTopics",
}
"""Kafka's names of requests, where the classes have others."""

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


class OldBrokerError(ClusterError):
    """A broker does not know a request, or this form of it. Nothing was sent."""


async def together(*those: Awaitable[None]) -> None:
    """Wait for all, and raise what the first of them has raised."""
    for found in await asyncio.gather(*those, return_exceptions=True):
        if isinstance(found, BaseException):
            raise found


class Connections:
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
        self._clock = clock
        self._asked = asked
        self._refused: dict[int, tuple[float, ClusterError]] = {}

    async def close(self) -> None:
        """Close all connections."""
        open_ones = [c.close() for c in self._connections.values()]
        self._connections.clear()
        await asyncio.gather(*(future for future in open_ones if future is not None))

    async def _send_any(self, request: Any) -> Any:
        """Ask any broker: one that is connected, one that is known, or a bootstrap server."""
        connected = [node for node, conn in self._connections.items() if conn.connected()]
        for node in connected or random.sample(sorted(self._brokers), len(self._brokers)):
            try:
                return await self._send(node, request)
            except OldBrokerError:
                raise
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
        api = API_NAMES.get(name, name)
        try:
            answer = connection.send(request)
            self._asked(api)
            return await answer
        except (NotImplementedError, kafka_errors.IncompatibleBrokerVersion):
            text = f"Kafka at {address} is too old: it does not know this version of {api}"
            raise OldBrokerError(text) from None
        except TimeoutError:
            # Whatever is still in flight on it would wait just as long.
            connection.close()
            raise ClusterError(f"Kafka at {address} did not answer in time") from None
        except (OSError, kafka_errors.KafkaError) as error:
            text = str(error) or type(error).__name__
            raise ClusterError(f"Kafka at {address}: {text}") from None

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
