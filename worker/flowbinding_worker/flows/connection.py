"""One HTTP/1.1 connection, with llhttp's parser (httptools): a request, its answer, the next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, cast

import httptools
import httpx

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Langflow's answers are about six times their text."""
MAX_HEAD_BYTES = 256 * 1024
"""Headers and trailers of an answer, and what else is not its body. Servers allow 8 to 64 KiB."""


class Received(NamedTuple):
    """An answer as it was sent, compressed or not.

    Attributes:
        status: Its status.
        headers: By name in lower case; the last of each name.
        body: Cut off once it is longer than `MAX_ANSWER_BYTES`.
    """

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class Connection(asyncio.Protocol):
    """Takes one request at a time."""

    def __init__(self) -> None:
        self.deadline = 0.0
        """When the answer under way has to be complete, for whoever looks after that."""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Received] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._head = 0
        self._unread = 0
        self._measured = False
        self._reusable = False

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent."""
        return self._reusable and self._transport is not None and not self._transport.is_closing()

    def begin(self, head: bytes, body: bytes) -> asyncio.Future[Received]:
        """Send a request.

        Returns:
            Its answer, cut off once it is longer than `MAX_ANSWER_BYTES`. Raises httpx.WriteError
            when nothing was sent, httpx.ReadError when the connection is lost before the answer is
            complete, httpx.RemoteProtocolError when that is no HTTP, TimeoutError after `expire`.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._status, self._unread, self._reusable = 0, 0, False
        if self._transport is None or self._transport.is_closing():
            self._fail(httpx.WriteError("the connection is closed"))
        else:
            self._transport.write(head + body)
        return self._answer

    def expire(self) -> None:
        """Wait for the answer no longer: `begin` raises TimeoutError."""
        self._fail(TimeoutError())

    def abort(self) -> None:
        """Close it at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        # uvloop's is no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        # Requests leave at once. uvloop would keep them until everything else that is ready has
        # run, and the requests of a whole burst of answers would leave together.
        self._transport.set_write_buffer_limits(0)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._parser is None or self._answer is None or self._answer.done():
            # Nobody has asked for it.
            self._reusable = False
            self.abort()
            return
        self._unread += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("the server wants another protocol"))
        except httptools.HttpParserError:
            # Its text quotes what was received.
            self._fail(httpx.RemoteProtocolError("the server's answer is not HTTP"))
        if len(self._body) > MAX_ANSWER_BYTES and not self._answer.done():
            self._complete(reusable=False)
            self.abort()
        if self._head + self._unread > MAX_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError("the answer's headers are too long"))

    def eof_received(self) -> None:
        """See asyncio. An answer without a length ends here."""
        if self._status >= 200 and not self._measured:
            self._complete(reusable=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._reusable = False
        self._transport = None
        self._fail(httpx.ReadError(str(exc) if exc else "the server closed the connection"), exc)

    def on_message_begin(self) -> None:
        """See httptools."""
        self._headers, self._body, self._head = {}, bytearray(), 0
        if self._answer is None or self._answer.done():
            # Two answers to one request: whose the next one is, nobody can tell.
            self._reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """See httptools."""
        self._headers[name.lower()] = value
        self._head += len(name) + len(value) + 4
        self._unread = 0

    def on_headers_complete(self) -> None:
        """See httptools."""
        assert self._parser is not None  # noqa: S101 - for mypy
        self._status = self._parser.get_status_code()
        found = self._headers
        self._measured = b"content-length" in found or b"transfer-encoding" in found

    def on_body(self, data: bytes) -> None:
        """See httptools."""
        self._body += data
        self._unread = 0

    def on_message_complete(self) -> None:
        """See httptools."""
        assert self._parser is not None  # noqa: S101 - for mypy
        # 100 Continue and the like are not the answer yet.
        if self._status >= 200:
            self._complete(reusable=self._parser.should_keep_alive())

    def _complete(self, *, reusable: bool) -> None:
        if self._answer is None or self._answer.done():
            return
        # An answer before all of the request was sent: the rest would be taken for the next one.
        idle = self._transport is not None and not self._transport.get_write_buffer_size()
        self._reusable = reusable and idle
        self._answer.set_result(Received(self._status, self._headers, bytes(self._body)))
        self._headers, self._body = {}, bytearray()

    def _fail(self, error: Exception, cause: BaseException | None = None) -> None:
        self._reusable = False
        if self._answer is not None and not self._answer.done():
            error.__cause__ = cause
            self._answer.set_exception(error)
            self.abort()
