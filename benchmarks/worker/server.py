"""A stand-in for a Langflow server: it waits for a set time and gives a recorded answer.

No flow runs here. It speaks as much HTTP/1.1 and of POST /api/v1/run/{id} as a benchmark needs, on
a raw protocol, so that it takes a small part of the core that it shares with the broker. It never
answers early: a call takes the set time or, while the core is busy, a little longer.

    python -m worker.server ANSWER_FILE PATTERN

PATTERN gives seconds and how often they come, e.g. `0.1` or `0.75x19,5.75x1`: in every 20 calls, 19
take 0.75 s and one 5.75 s, in random order. The port is printed. GET /stats gives the calls so far,
the mean seconds that they took, and when each began by its X-Request-Id (seconds since the epoch).
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import cast

import uvloop

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-request-id: *([^\r]+)", re.IGNORECASE)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


def parse_pattern(text: str) -> list[float]:
    """`0.75x19,5.75x1` as 20 numbers of seconds; `0.1` as one."""
    seconds: list[float] = []
    for part in text.split(","):
        value, _, times = part.partition("x")
        seconds += [float(value)] * int(times or 1)
    return seconds


def _delays(pattern: list[float]) -> Iterator[float]:
    """The pattern over and over, shuffled each time: the mean of many calls is exact."""
    draw = Random(1)
    while True:
        block = list(pattern)
        draw.shuffle(block)
        yield from block


class Stats:
    """What the server knows of its calls."""

    def __init__(self) -> None:
        self.started: dict[str, float] = {}
        self.calls = 0
        self.seconds = 0.0

    def encoded(self) -> bytes:
        """For GET /stats."""
        mean = self.seconds / self.calls if self.calls else 0.0
        return json.dumps({"calls": self.calls, "mean": mean, "started": self.started}).encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection; a client sends its next request after the answer."""

    def __init__(self, answer: bytes, delays: Iterator[float], stats: Stats) -> None:
        self._answer = answer
        self._delays = delays
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = _LENGTH.search(head)
        if len(body) < (int(length[1]) if length else 0):
            return
        self._received = b""
        if head.startswith(b"GET"):
            self._write(self._stats.encoded())
            return
        if (identity := _REQUEST_ID.search(head)) is not None:
            self._stats.started[identity[1].decode()] = time.time()
        began = time.monotonic()
        delay = next(self._delays)
        self._loop.call_later(delay, self._done, began, began + delay)

    def _done(self, began: float, due: float) -> None:
        now = time.monotonic()
        if now < due:
            # uvloop's timers count in whole milliseconds from the start of the loop's turn.
            self._loop.call_later(0.001, self._done, began, due)
            return
        self._stats.calls += 1
        self._stats.seconds += now - began
        self._write(self._answer)

    def _write(self, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(HEAD % len(body) + body)


async def serve(answer: bytes, pattern: list[float]) -> None:
    """Serve on a free port until killed."""
    stats, delays = Stats(), _delays(pattern)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(answer, delays, stats), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]).read_bytes(), parse_pattern(sys.argv[2])))
