"""HTTP/1.1 connections behind httpx's interface.

httpx's own pool does 72 requests a second at 100 in flight; aiohttp's client takes 0.11 ms of CPU a
request, which is a third of all that a message costs. This takes 0.07 ms, httpx's objects included,
and does only what a run needs: bodies in memory, no redirects, no cookies, no HTTP/2. See
docs/decisions/0020.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

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
    name: bytes
    target: bytes
    user: bytes

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
        return cls(url, url.scheme, host, port, url.netloc, url.raw_path, _basic(url))


@dataclass(slots=True)
class _Idle:
    connection: Connection
    context: ssl.SSLContext
    since: float


class ConnectionPool(httpx.AsyncBaseTransport):
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

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and receive all of its answer."""
        server = self._server
        if server is None or server.url is not request.url:
            server = self._moved(request.url)
        body = request.stream
        data = b"".join(body) if isinstance(body, httpx.ByteStream) else await request.aread()
        head = self._head(request, server, len(data))
        context = self.context
        connection = self._reused(context) or await self._connected(server, context)
        self._busy.add(connection)
        try:
            received = await connection.begin(head, data)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(_Idle(connection, context, time.monotonic()))
        else:
            connection.abort()
        return _response(request, received)

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in (*self._busy, *(idle.connection for idle in self._idle)):
            connection.abort()
        self._idle.clear()

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

    async def _connected(self, server: _Server, context: ssl.SSLContext) -> Connection:
        try:
            async with asyncio.timeout(self._connect_seconds):
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

    def _head(self, request: httpx.Request, server: _Server, length: int) -> bytes:
        target = server.target
        lines = [b"Host: " + server.name, b"Content-Length: %d" % length]
        lines += [name + b": " + value for name, value in request.headers.raw]
        if server.user:
            lines.append(b"Authorization: " + server.user)
        if self._proxy is not None and server.scheme == "http":
            target = b"http://" + server.name + target
            lines += _proof(self._proxy)
        head = b"%s %s HTTP/1.1\r\n%s\r\n\r\n" % (
            request.method.encode(),
            target,
            b"\r\n".join(lines),
        )
        # What a template made may hold anything, another header and another request among it.
        if head.count(b"\n") != len(lines) + 2 or b"\0" in head:
            raise httpx.LocalProtocolError("a header holds a line break or a zero byte")
        return head


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
        place = f"{host}:{server.port}".encode()
        lines = [b"CONNECT %s HTTP/1.1" % place, b"Host: " + place, *_proof(proxy), b"", b""]
        plain.write(b"\r\n".join(lines))
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


def _response(request: httpx.Request, received: Received) -> httpx.Response:
    return httpx.Response(
        received.status,
        headers=received.headers,
        stream=httpx.ByteStream(received.body),
        request=request,
    )


def _basic(url: httpx.URL) -> bytes:
    """The header's value that a URL's user and password make; empty without."""
    if not url.userinfo:
        return b""
    return b"Basic " + base64.b64encode(f"{url.username}:{url.password}".encode())


def _proof(proxy: _Server) -> Iterator[bytes]:
    if proxy.user:
        yield b"Proxy-Authorization: " + proxy.user


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
