"""HTTP connections, against servers that say exactly what a test wants."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from flowbinding_worker.flows import connection
from flowbinding_worker.flows.transport import ConnectionPool

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request with what `answers` gives next; keeps what was asked."""

    def __init__(self, *answers: bytes, close: bool = False) -> None:
        self.answers = list(answers)
        self.close = close
        self.connections = 0
        self.asked: list[bytes] = []
        self.port = 0
        self.serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.serving[task] = writer
        while self.answers:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
            self.asked.append(head + await reader.readexactly(length))
            writer.write(self.answers.pop(0))
            if self.close:
                break
        writer.close()

    def url(self, path: str = "/run?a=b") -> httpx.URL:
        return httpx.URL(f"http://127.0.0.1:{self.port}{path}")


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Server]:
    async with await asyncio.start_server(server, "127.0.0.1", 0) as sockets:
        server.port = sockets.sockets[0].getsockname()[1]
        yield server
        for writer in server.serving.values():
            writer.close()
        await asyncio.gather(*server.serving, return_exceptions=True)
        for writer in server.serving.values():
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@pytest.fixture
async def pool() -> AsyncIterator[ConnectionPool]:
    made = ConnectionPool(ssl.create_default_context())
    yield made
    await made.aclose()


async def ask(
    pool: ConnectionPool, url: httpx.URL, body: bytes = b"{}", seconds: float = 30, **headers: str
) -> tuple[int, bytes]:
    deadline = asyncio.get_running_loop().time() + seconds
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    status, _, answer = await pool.send("POST", url, named, body, deadline)
    return status, answer


async def test_what_is_sent(pool: ConnectionPool) -> None:
    async with listening(Server(OK)) as server:
        assert await ask(pool, server.url(), b"{1}", X_Key="k") == (200, b"ok")
    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /run?a=b HTTP/1.1"
    assert set(lines[1:]) == {
        b"Host: 127.0.0.1:%d" % server.port,
        b"Content-Length: 3",
        b"X-Key: k",
    }
    assert body == b"{1}"


async def test_one_connection_serves_one_after_the_other(pool: ConnectionPool) -> None:
    async with listening(Server(OK, OK, OK)) as server:
        for _ in range(3):
            assert await ask(pool, server.url()) == (200, b"ok")
        assert server.connections == 1


async def test_as_many_connections_as_requests_at_once(pool: ConnectionPool) -> None:
    async with listening(Server(*[OK] * 8)) as server:
        assert set(await asyncio.gather(*(ask(pool, server.url()) for _ in range(8)))) == {
            (200, b"ok")
        }
        assert server.connections == 8


async def test_an_answer_that_does_not_come_in_time(pool: ConnectionPool) -> None:
    got, hold = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"X-Slow: no" in head:
            writer.write(OK)
        else:
            # It begins, and goes no further.
            writer.write(OK[:-1])
            got.set()
            if b"X-Slow: a bit" in head:
                await hold.wait()
                writer.write(OK[-1:])
        with contextlib.suppress(ConnectionError):
            while await reader.read(100):
                pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as sockets:
        url = httpx.URL(f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}")
        # The first to begin is the last to be late.
        patient = asyncio.create_task(ask(pool, url, b"", X_Slow="a bit"))
        await got.wait()
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await ask(pool, url, b"", seconds=0.05, X_Slow="yes")
        assert await ask(pool, url, b"", X_Slow="no") == (200, b"ok")
        hold.set()
        assert await patient == (200, b"ok")
        await pool.aclose()


async def test_an_answer_is_waited_for_no_longer_after_a_close_either(pool: ConnectionPool) -> None:
    async with listening(Server(OK, b"", OK)) as server:
        # Its deadline is the first to come: what was to look after it must not stand for the next.
        assert await ask(pool, server.url(), seconds=0.5) == (200, b"ok")
        await pool.aclose()
        async with asyncio.timeout(5) as far:
            with pytest.raises(TimeoutError):
                await ask(pool, server.url(), seconds=0.5)
        assert not far.expired()


async def test_nothing_is_sent_when_the_time_is_over(pool: ConnectionPool) -> None:
    async with listening(Server(OK, OK)) as server:
        assert await ask(pool, server.url()) == (200, b"ok")
        with pytest.raises(httpx.ConnectTimeout):
            await ask(pool, server.url(), seconds=-1)
        assert await ask(pool, server.url()) == (200, b"ok")
        assert (len(server.asked), server.connections) == (2, 1)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
            id="chunks",
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, id="after 100 Continue"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK, id="after 103"),
    ],
)
async def test_answers_in_other_forms(pool: ConnectionPool, answer: bytes) -> None:
    async with listening(Server(answer, OK)) as server:
        assert await ask(pool, server.url()) == (200, b"ok")
        assert await ask(pool, server.url()) == (200, b"ok")
        assert server.connections == 1


async def test_an_answer_that_ends_with_the_connection(pool: ConnectionPool) -> None:
    async with listening(Server(b"HTTP/1.1 200 OK\r\n\r\nok", OK, close=True)) as server:
        assert await ask(pool, server.url()) == (200, b"ok")
        assert await ask(pool, server.url()) == (200, b"ok")
        assert server.connections == 2


async def test_a_connection_that_the_server_closes_is_not_used_again(pool: ConnectionPool) -> None:
    last = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with listening(Server(last, OK)) as server:
        assert await ask(pool, server.url()) == (200, b"ok")
        assert await ask(pool, server.url()) == (200, b"ok")
        assert server.connections == 2


async def test_what_nobody_asked_for_ends_a_connection(pool: ConnectionPool) -> None:
    async with listening(Server(OK + OK, OK)) as server:
        assert await ask(pool, server.url()) == (200, b"ok")
        assert await ask(pool, server.url()) == (200, b"ok")
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", httpx.ReadError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok", httpx.ReadError),
        (b"SSH-2.0-OpenSSH\r\n\r\n", httpx.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", httpx.HTTPError),
        pytest.param(
            b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", httpx.ReadError, id="hints only"
        ),
    ],
)
async def test_broken_answers(pool: ConnectionPool, answer: bytes, error: type[Exception]) -> None:
    async with listening(Server(answer, close=True)) as server:
        with pytest.raises(error):
            await ask(pool, server.url())


async def test_an_endless_answer_is_cut_off(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MAX_ANSWER_BYTES", 1000)
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000
    async with listening(Server(answer)) as server:
        status, body = await ask(pool, server.url())
        assert status == 200
        assert 1000 < len(body) <= 100_000


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000, id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\na: " + b"b" * 3000, id="header"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000, id="hints"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n0\r\n"
            + b"a: b\r\n" * 1000,
            id="trailers",
        ),
    ],
)
async def test_an_endless_head_is_cut_off(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(connection, "MAX_HEAD_BYTES", 2000)
    async with listening(Server(answer)) as server:
        with pytest.raises(httpx.RemoteProtocolError, match="headers are too long"):
            await ask(pool, server.url())


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\0b"])
async def test_a_header_cannot_carry_another(pool: ConnectionPool, value: str) -> None:
    async with listening(Server(OK)) as server:
        with pytest.raises(httpx.LocalProtocolError):
            await ask(pool, server.url(), x_key=value)
        assert server.asked == []


async def test_a_cancelled_request_leaves_no_connection_behind(pool: ConnectionPool) -> None:
    closed = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() in (b"", b"{}")
        closed.set()
        writer.close()

    asked = asyncio.Event()
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as sockets:
        port = sockets.sockets[0].getsockname()[1]
        task = asyncio.create_task(ask(pool, httpx.URL(f"http://127.0.0.1:{port}/")))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await closed.wait()


async def test_a_plain_request_over_a_proxy() -> None:
    async with listening(Server(OK)) as proxy:
        url = proxy.url().copy_with(username="user", password="of-the-proxy")
        pool = ConnectionPool(ssl.create_default_context(), proxy=url)
        assert await ask(pool, httpx.URL("http://langflow.example/run?a=b")) == (200, b"ok")
        await pool.aclose()
    head = proxy.asked[0]
    assert head.startswith(b"POST http://langflow.example/run?a=b HTTP/1.1\r\n")
    assert b"Host: langflow.example\r\n" in head
    assert b"Proxy-Authorization: Basic dXNlcjpvZi10aGUtcHJveHk=\r\n" in head


async def test_a_user_and_a_password_in_the_url(pool: ConnectionPool) -> None:
    async with listening(Server(OK)) as server:
        url = server.url().copy_with(userinfo=b"us%2541er:p%C3%B6%25")
        assert await ask(pool, url) == (200, b"ok")
    proof = base64.b64encode("us%41er:pö%".encode())
    assert b"Authorization: Basic " + proof in server.asked[0].split(b"\r\n")


async def test_a_proxy_is_asked_for_an_ipv6_address_in_brackets() -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Not there\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as sockets:
        proxy = httpx.URL(f"http://127.0.0.1:{sockets.sockets[0].getsockname()[1]}")
        pool = ConnectionPool(ssl.create_default_context(), proxy=proxy)
        with pytest.raises(httpx.ProxyError, match="403 Not there"):
            await ask(pool, httpx.URL("https://[fd00::1]/run"))
    assert asked[0].split(b"\r\n")[:2] == [
        b"CONNECT [fd00::1]:443 HTTP/1.1",
        b"Host: [fd00::1]:443",
    ]


@pytest.mark.parametrize("url", ["ftp://host/", "http:///path"])
async def test_what_cannot_be_called(pool: ConnectionPool, url: str) -> None:
    with pytest.raises(httpx.UnsupportedProtocol):
        await ask(pool, httpx.URL(url))
