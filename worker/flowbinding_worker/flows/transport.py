"""Aiohttp's connections behind httpx's interface.

httpx's own pool does 72 requests a second at 100 in flight. httpx-aiohttp does 930, at twice the
CPU time of this, which does only what a run needs: one server, bodies in memory, no redirects, no
cookies, no HTTP/2.
"""

from __future__ import annotations

import math
import ssl
import urllib.request
from collections.abc import AsyncIterator

import aiohttp
import httpx

from flowbinding_worker.redaction import redact

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 1.5
"""Less than servers wait (gunicorn 2 s, uvicorn 5 s): a request on a connection that the server is
closing fails, and nobody knows then whether it ran."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends requests through an aiohttp session that is opened with the first.

    All failures of connections are `httpx.TransportError` with aiohttp's own as their cause; bodies
    arrive as they were sent, compressed ones too.

    Args:
        connections: To keep at most.
        context: TLS.
        proxy: URL of a proxy, if any.
        connect_seconds: How long a connection may take, with the name's resolution and TLS.
    """

    def __init__(
        self,
        connections: int,
        context: ssl.SSLContext,
        proxy: httpx.URL | None = None,
        connect_seconds: float = CONNECT_SECONDS,
    ) -> None:
        self._connections = connections
        self._context = context
        self._proxy = None if proxy is None else str(proxy)
        self._connect_seconds = connect_seconds
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the body of the response is read when it is asked for."""
        if self._session is None:
            self._session = self._open()
        body = request.stream
        data = b"".join(body) if isinstance(body, httpx.ByteStream) else await request.aread()
        try:
            response = await self._session.request(
                request.method,
                str(request.url),
                data=data,
                headers=[(k.decode(), v.decode()) for k, v in request.headers.raw],
                allow_redirects=False,
                proxy=self._proxy,
            )
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error) from error
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_Body(response), request=request
        )

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._connections, keepalive_timeout=KEEPALIVE_SECONDS, ssl=self._context
        )
        return aiohttp.ClientSession(
            connector=connector,
            # One message's cookies must not travel with another's.
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # Exactly: aiohttp would round up to whole seconds.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_seconds, ceil_threshold=math.inf
            ),
        )


class _Body(httpx.AsyncByteStream):
    """The body of an answer, to be read once.

    No generator: the event loop keeps a book of those, which costs more than the reading.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise _failure(error) from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._response.release()


def make_transport(server: httpx.URL, slots: int, most_seconds: float) -> AiohttpTransport:
    """A transport to one server, for so many calls at once.

    Proxies of the environment (HTTPS_PROXY, NO_PROXY) are looked up once. A connection may take
    `CONNECT_SECONDS`, and no more than `most_seconds`.
    """
    proxy, seconds = _proxy(server), min(CONNECT_SECONDS, most_seconds)
    return AiohttpTransport(slots, httpx.create_ssl_context(), proxy, seconds)


def _proxy(server: httpx.URL) -> httpx.URL | None:
    proxies = urllib.request.getproxies()
    found = proxies.get(server.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(server.host):
        return None
    redact.learn_url(found)
    return httpx.URL(found)


def _failure(error: Exception) -> httpx.TransportError:
    return httpx.TransportError(str(error) or type(error).__name__)
