"""A flow server in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import httpx

from flowbinding_worker.flows.connection import Received

Handler = Callable[[httpx.Request], httpx.Response | Awaitable[httpx.Response]]


class MockServer:
    """A transport to `handler`; implements `flows.transport.Transport`.

    Args:
        handler: Answers a request, or raises httpx.TransportError.
    """

    def __init__(self, handler: Handler) -> None:
        self._mock = httpx.MockTransport(handler)  # type: ignore[arg-type]

    async def send(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Received:
        """Send a request to the handler."""
        request = httpx.Request(method, url, headers=headers, stream=httpx.ByteStream(body))
        async with asyncio.timeout_at(deadline):
            response = await self._mock.handle_async_request(request)
        stream = response.stream
        assert isinstance(stream, httpx.AsyncByteStream)
        received = b"".join([chunk async for chunk in stream])
        found = {name.lower(): value for name, value in response.headers.raw}
        return Received(response.status_code, found, received)

    async def aclose(self) -> None:
        """Nothing to close."""
