"""One exchange: compressed answers, and how much of one the worker takes."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import tracemalloc
import zlib

import httpx
import pytest

from flow_fakes import MockServer
from flowbinding_worker.flows import http_exchange
from flowbinding_worker.flows.classify import Answer
from flowbinding_worker.flows.http_exchange import exchange
from flowbinding_worker.flows.transport import ConnectionPool
from flowbinding_worker.ports import Failure, ProcessingError

TEXT = b"what was asked for"
URL = httpx.URL("http://flow")
LATER = 1e9
"""On the event loop's clock: years from now."""


async def answered(body: bytes, encoding: str, status: int = 200) -> Answer:
    """What is made of a server's answer."""

    def handler(request: httpx.Request) -> httpx.Response:
        headers = {"content-encoding": encoding}
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body))

    return await exchange(MockServer(handler), "POST", URL, {}, b"", LATER)


async def refused(body: bytes, encoding: str) -> ProcessingError:
    with pytest.raises(ProcessingError) as raised:
        await answered(body, encoding)
    return raised.value


def raw_deflated(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (TEXT, "identity"),
        (gzip.compress(TEXT, mtime=0), "gzip"),
        (gzip.compress(TEXT, mtime=0), "X-GZIP"),
        (zlib.compress(TEXT), "deflate"),
        (raw_deflated(TEXT), "deflate"),
        (gzip.compress(zlib.compress(TEXT), mtime=0), "deflate, gzip"),
    ],
    ids=["none", "gzip", "x-gzip", "zlib", "raw", "both"],
)
async def test_compressed_answers(body: bytes, encoding: str) -> None:
    assert (await answered(body, encoding)).body == TEXT.decode()


async def test_a_server_that_hangs_up_in_the_handshake() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as sockets:
        url = httpx.URL(f"https://127.0.0.1:{sockets.sockets[0].getsockname()[1]}")
        pool, loop = ConnectionPool(ssl.create_default_context()), asyncio.get_running_loop()
        with pytest.raises(ProcessingError, match=r"cannot connect: \w+") as raised:
            await exchange(pool, "POST", url, {}, b"", loop.time() + 30)
    assert raised.value.failure is Failure.TRANSIENT
    assert not raised.value.outcome_unknown


async def test_an_answer_without_a_body() -> None:
    assert (await answered(b"", "gzip", 401)).status == 401


@pytest.mark.parametrize(
    ("body", "encoding", "says"),
    [
        (gzip.compress(TEXT, mtime=0)[:-9], "gzip", "ends too early"),
        (TEXT, "gzip", "not compressed as its headers say"),
        (TEXT, "br", "content-encoding br"),
    ],
    ids=["cut short", "plain", "not asked for"],
)
async def test_broken_answers(body: bytes, encoding: str, says: str) -> None:
    error = await refused(body, encoding)
    assert says in str(error)
    assert (error.failure, error.outcome_unknown) == (Failure.TRANSIENT, True)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_small_answer_does_not_become_a_huge_one(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(http_exchange, "MAX_ANSWER_BYTES", 100_000)
    body = bytes(32 * 1024 * 1024)
    for _ in range(times):
        body = gzip.compress(body)
    tracemalloc.start()
    try:
        error = await refused(body, ", ".join(["gzip"] * times))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (error.failure, error.reason) == (Failure.POISON, "AnswerInvalid")
    assert peak < 4 * 1024 * 1024
