"""A stand-in for a broker's front door: it counts what passes, and answers from the past on cue.

The broker advertises the proxy's port, or clients would go past it after their first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from testbed import KafkaBroker
from testbed.state import LOOPBACK, free_port

FETCH, JOIN_GROUP = 1, 11
"""Numbers of requests in Kafka's protocol."""
PACE_SECONDS = 0.2


@dataclass
class KafkaProxy:
    """Passes requests and answers on, one connection to the broker for each of a client's.

    Attributes:
        requests: How many there were, by number of the request and id of the client.
        received: Bytes of the answers, by the same.
        frozen: Whether a request (its number, the client's id) gets the last answer once more
            instead of a new one.
    """

    port: int
    target: int
    requests: Counter[tuple[int, str]] = field(default_factory=Counter)
    received: Counter[tuple[int, str]] = field(default_factory=Counter)
    frozen: Callable[[int, str], bool] = lambda _number, _client: False
    _last: dict[tuple[int, str], bytes] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            broker_reader, broker_writer = await asyncio.open_connection(LOOPBACK, self.target)
        except OSError:
            writer.close()
            return
        asked: dict[int, tuple[int, str]] = {}
        ways = [
            asyncio.create_task(self._requests(reader, broker_writer, asked)),
            asyncio.create_task(self._answers(broker_reader, writer, asked)),
        ]
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        self._tasks.difference_update(ways)
        for end in (writer, broker_writer):
            end.close()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: dict[int, tuple[int, str]],
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                frame = await _frame(reader)
                # Header: number, version, correlation id, client id.
                number, _, correlation, length = struct.unpack_from(">hhih", frame, 4)
                client = frame[14 : 14 + max(0, length)].decode()
                asked[correlation] = number, client
                self.requests[number, client] += 1
                writer.write(frame)
                await writer.drain()

    async def _answers(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        asked: dict[int, tuple[int, str]],
    ) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                frame = await _frame(reader)
                [correlation] = struct.unpack_from(">i", frame, 4)
                what = asked.pop(correlation)
                if self.frozen(*what):
                    # The client would ask again at once, and again.
                    await asyncio.sleep(PACE_SECONDS)
                    frame = _again(self._last[what], correlation)
                self._last[what] = frame
                self.received[what] += len(frame)
                writer.write(frame)
                await writer.drain()

    def close(self) -> None:
        """Cut all connections."""
        for task in self._tasks:
            task.cancel()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack(">i", head)[0])


def _again(frame: bytes, correlation: int) -> bytes:
    return frame[:4] + struct.pack(">i", correlation) + frame[8:]


@asynccontextmanager
async def proxied_broker(folder: Path) -> AsyncIterator[tuple[KafkaProxy, KafkaBroker]]:
    """A broker of its own that clients reach through a proxy alone."""
    port = free_port()
    properties = {"advertised.listeners": f"CLIENT://{LOOPBACK}:{port}"}
    broker = KafkaBroker(folder, properties=properties)
    proxy = KafkaProxy(port, broker.state.port("kafka"))
    server = await asyncio.start_server(proxy.serve, LOOPBACK, port, limit=2**22)
    try:
        await asyncio.to_thread(broker.start)
        yield proxy, broker
    finally:
        await asyncio.to_thread(broker.stop)
        server.close()
        proxy.close()
        await server.wait_closed()
