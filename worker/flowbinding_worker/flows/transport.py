"""HTTP/1.1 connections to one server, as many as there are requests at once.

httpx's own pool does 72 requests a second at 100 in flight; aiohttp's client takes 0.11 ms of CPU a
request, which is a third of all that a message costs. This takes less than half of that, and does
only what a run needs: bodies in memory, no redirects, no cookies, no HTTP/2. See
docs/decisions/0020.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import httpx

from flowbinding_worker.flows.classify import misconfigured
from flowbinding_worker.flows.connection import MAX_HEAD_BYTES, Connection, Received
from flowbinding_worker.redaction import redact

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 1.5
"""Less than servers wait (gunicorn 2 s, uvicorn 5 s): a request on a connection that the server is
closing fails, and nobody knows then whether it ran."""

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a URL leads to."""

    url: httpx.URL
    scheme: str
    host: str
    port: int
    name: str
    target: str
    user: str

    @property
    def place(self) -> tuple[str, str, int]:
        """What a connection is made to."""
        return self.scheme, self.host, self.port

    @classmethod
    def of(cls, url: httpx.URL) -> _Server:
        """Raises httpx.UnsupportedProtocol."""
        if url.scheme not in _PORTS or not url.host:
            raise httpx.UnsupportedProtocol("no http:// or https:// URL")
        host = url.raw_host.decode()
        port = url.port or _PORTS[url.scheme]
        name, target = url.netloc.decode(), url.raw_path.decode()
        return cls(url, url.scheme, host, port, name, target, _basic(url))


@dataclass(slots=True)
class _Idle:
    connection: Connection
    context: ssl.SSLContext
    since: float


class Transport(Protocol):
    """Sends requests; all failures are `httpx.TransportError`."""

    async def send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Received:
        """Send a request and receive all of its answer.

        Args:
            method: GET, POST, …
            url: Where to; may hold a user and a password.
            headers: Beside Host and Content-Length.
            body: Empty for none.
            deadline: When all of the answer has to be there, on the event loop's clock.

        Raises:
            TimeoutError: It was not, and what became of the request is unknown.
        """

    async def aclose(self) -> None:
        """Close all connections."""


class ConnectionPool:
    """Sends requests to one server, over as many connections as there are requests at once.

    All failures are `httpx.TransportError`, whose cause is the operating system's or TLS's; bodies
    arrive as they were sent, compressed ones too.

    Args:
        context: TLS; another one may be set at any time, and is for new connections.
        proxy: URL of a proxy, if any.
        connect_seconds: How long a connection may take, with the name's resolution and TLS.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        proxy: httpx.URL | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self.context = context
        self._proxy = None if proxy is None else _Server.of(proxy)
        self._connect_seconds = connect_seconds
        self._server: _Server | None = None
        self._idle: deque[_Idle] = deque()
        self._busy: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    async def send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Received:
        """See `Transport`; quickest with the same object for the same URL."""
        server = self._server
        if server is None or server.url is not url:
            server = self._moved(url)
        head = self._head(method, server, headers, len(body))
        if deadline <= asyncio.get_running_loop().time():
            # What is sent now would run, and nobody would wait for it.
            raise httpx.ConnectTimeout("no time left")
        context = self.context
        connection = self._reused(context) or await self._connected(server, context, deadline)
        connection.deadline = deadline
        self._busy.add(connection)
        self._watch(deadline)
        try:
            received = await connection.begin(head, body)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(_Idle(connection, context, time.monotonic()))
        else:
            connection.abort()
        return received

    async def aclose(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in (*self._busy, *(idle.connection for idle in self._idle)):
            connection.abort()
        self._idle.clear()

    def _watch(self, deadline: float) -> None:
        """See to it that a request ends in time: one timer does for all, and hardly ever runs."""
        if self._timer is not None:
            if self._next <= deadline:
                return
            self._timer.cancel()
        self._next = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer, now = None, asyncio.get_running_loop().time()
        late = [connection for connection in self._busy if connection.deadline <= now]
        for connection in late:
            connection.expire()
        if left := self._busy.difference(late):
            self._watch(min(connection.deadline for connection in left))

    def _moved(self, url: httpx.URL) -> _Server:
        """Another URL, and perhaps another server: connections are for one."""
        before, self._server = self._server, _Server.of(url)
        if before is not None and before.place != self._server.place:
            while self._idle:
                self._idle.popleft().connection.abort()
        return self._server

    def _reused(self, context: ssl.SSLContext) -> Connection | None:
        # The one that was used last: others come of age when there is less to do.
        while self._idle:
            idle = self._idle.pop()
            fresh = time.monotonic() - idle.since < KEEPALIVE_SECONDS and idle.context is context
            if fresh and idle.connection.reusable:
                while len(self._idle) and not self._idle[0].connection.reusable:
                    self._idle.popleft()
                return idle.connection
            idle.connection.abort()
        return None

    async def _connected(
        self, server: _Server, context: ssl.SSLContext, deadline: float
    ) -> Connection:
        most = asyncio.get_running_loop().time() + self._connect_seconds
        try:
            async with asyncio.timeout_at(min(most, deadline)):
                if self._proxy is None:
                    return await _direct(server, context)
                if server.scheme == "http":
                    return await _direct(self._proxy, context)
                return await _tunnel(self._proxy, server, context)
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as error:
            # TLS's errors are OSErrors, too.
            raise httpx.ConnectError(str(error) or type(error).__name__) from error

    def _head(self, method: str, server: _Server, headers: Mapping[str, str], length: int) -> bytes:
        target = server.target
        lines = [f"Host: {server.name}", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if server.user:
            lines.append(f"Authorization: {server.user}")
        if self._proxy is not None and server.scheme == "http":
            target = f"http://{server.name}{target}"
            lines += _proof(self._proxy)
        # What a template made may hold anything, another header and another request among it.
        head = f"{method} {target} HTTP/1.1\r\n" + "\r\n".join(lines)
        if head.count("\n") != len(lines) or "\0" in head:
            raise httpx.LocalProtocolError("a header holds a line break or a zero byte")
        try:
            return f"{head}\r\n\r\n".encode("ascii")
        except UnicodeEncodeError:
            raise httpx.LocalProtocolError("a header holds characters beyond ASCII") from None


def make_transport(
    server: httpx.URL, most_seconds: float, context: ssl.SSLContext
) -> ConnectionPool:
    """A transport to one server.

    Proxies of the environment (HTTPS_PROXY, NO_PROXY) are looked up once. A connection may take
    `CONNECT_SECONDS`, and no more than `most_seconds`.

    Raises:
        ProcessingError: CONFIGURATION, when the environment's proxy is none.
    """
    return ConnectionPool(context, _proxy(server), min(CONNECT_SECONDS, most_seconds))


async def _direct(server: _Server, context: ssl.SSLContext) -> Connection:
    loop, tls = asyncio.get_running_loop(), server.scheme == "https"
    _, connection = await loop.create_connection(
        Connection,
        server.host,
        server.port,
        ssl=context if tls else None,
        server_hostname=server.host if tls else None,
    )
    return connection


async def _tunnel(proxy: _Server, server: _Server, context: ssl.SSLContext) -> Connection:
    """TLS to the server through a proxy that forwards bytes (RFC 9110, 9.3.6)."""
    loop, tls = asyncio.get_running_loop(), context if proxy.scheme == "https" else None
    plain, opening = await loop.create_connection(_Opening, proxy.host, proxy.port, ssl=tls)
    try:
        host = f"[{server.host}]" if ":" in server.host else server.host
        place = f"{host}:{server.port}"
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", *_proof(proxy), "", ""]
        plain.write("\r\n".join(lines).encode())
        await opening.agreed
        connection = Connection()
        transport = await loop.start_tls(plain, connection, context, server_hostname=server.host)
    except BaseException:
        plain.abort()
        raise
    if transport is None:
        raise ConnectionResetError("the proxy closed the connection")
    connection.connection_made(transport)
    return connection


class _Opening(asyncio.Protocol):
    """A connection to a proxy until it has answered CONNECT.

    asyncio's streams cannot do this: who lets go of a StreamWriter closes what is below TLS.

    Attributes:
        agreed: Raises httpx.ProxyError with the answer's status and phrase, unless it agrees.
    """

    def __init__(self) -> None:
        self.agreed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._said = b""

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._said += data
        if b"\r\n\r\n" in self._said:
            _, _, said = self._said.partition(b"\r\n")[0].decode("latin-1").partition(" ")
            self._end(None if said.startswith("2") else said)
        elif len(self._said) > MAX_HEAD_BYTES:
            self._end("502 no end of its headers")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._end("502 no answer")

    def _end(self, refusal: str | None) -> None:
        if self.agreed.done():
            return
        if refusal is None:
            self.agreed.set_result(None)
        else:
            self.agreed.set_exception(httpx.ProxyError(refusal))


def _basic(url: httpx.URL) -> str:
    """The header's value that a URL's user and password make; empty without."""
    if not url.userinfo:
        return ""
    return f"Basic {base64.b64encode(f'{url.username}:{url.password}'.encode()).decode()}"


def _proof(proxy: _Server) -> Iterator[str]:
    if proxy.user:
        yield f"Proxy-Authorization: {proxy.user}"


def _proxy(server: httpx.URL) -> httpx.URL | None:
    proxies = urllib.request.getproxies()
    found = proxies.get(server.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(server.host):
        return None
    # Usual, and no URL: `proxy:3128`.
    found = found if "://" in found else f"http://{found}"
    redact.learn_url(found)
    try:
        url = httpx.URL(found)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in _PORTS or not url.host:
        raise misconfigured(
            "the proxy in the worker's environment (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) is no"
            f" http:// or https:// URL; correct it, or name {server.host} in NO_PROXY"
        )
    return url
