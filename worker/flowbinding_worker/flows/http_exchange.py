"""One request to a server and its answer; and what it means when no answer comes."""

from __future__ import annotations

import socket
import ssl
import zlib
from collections.abc import Iterator, Mapping
from functools import lru_cache

import httpx

from flowbinding_api.reasons import Reason
from flowbinding_worker.flows.classify import Answer, misconfigured, unreachable
from flowbinding_worker.flows.connection import MAX_ANSWER_BYTES, Received
from flowbinding_worker.flows.transport import Transport
from flowbinding_worker.ports import Failure, ProcessingError, Stage

_CODINGS = (b"gzip", b"x-gzip", b"deflate")


def address(text: str, field: str) -> httpx.URL:
    """A URL as a user wrote it, with user and password.

    Args:
        text: The URL.
        field: Path of the field that has it, for messages.

    Raises:
        ProcessingError: CONFIGURATION, when nothing can be called there.
    """
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise misconfigured(f"{field}: not a URL: {error}") from None
    if not url.host or (url.port or 0) > 65535:
        raise misconfigured(f"{field}: not a URL: no such host or port")
    return url


async def exchange(
    transport: Transport,
    method: str,
    url: httpx.URL,
    headers: Mapping[str, str],
    body: bytes,
    deadline: float,
    field: str = "spec.flow.url",
) -> Answer:
    """Send one request and read the whole answer, whatever its status.

    Args:
        transport: To the server.
        method: GET, POST, …
        url: Where to; may hold a user and a password.
        headers: All of them; the body's length is added.
        body: Empty for none.
        deadline: When all of the answer has to be there, on the event loop's clock.
        field: Path of the field that names the server, for messages.

    Raises:
        ProcessingError: When no answer came, or one that is too long.
        TimeoutError: When it did not come in time.
    """
    try:
        return _answer(await transport.send(method, url, headers, body, deadline))
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise _lost(url, field, error) from None


def _answer(received: Received) -> Answer:
    status, headers, body = received
    if len(body) > MAX_ANSWER_BYTES:
        raise _too_long(status)
    if coding := headers.get(b"content-encoding"):
        body = _decoded(body, coding, status)
    return Answer(
        status=status,
        content_type=_media_type(headers.get(b"content-type", b"")),
        body=_text(body),
        location=_text(headers.get(b"location", b"")),
        retry_after=_text(headers.get(b"retry-after", b"")),
    )


@lru_cache(maxsize=16)
def _media_type(raw: bytes) -> str:
    return _text(raw).partition(";")[0].strip().lower()


def _decoded(body: bytes, codings: bytes, status: int) -> bytes:
    """A body without its compression; a small one can hold gigabytes.

    Raises:
        httpx.DecodingError: It is broken, or compressed in a way that was not asked for.
        ProcessingError: It is too long.
    """
    for coding in map(bytes.strip, reversed(codings.lower().split(b","))):
        if not body or coding in (b"", b"identity"):
            continue
        if coding not in _CODINGS:
            raise httpx.DecodingError(f"content-encoding {_text(coding)[:40]}")
        body = _inflated(body)
        if len(body) > MAX_ANSWER_BYTES:
            raise _too_long(status)
    return body


def _inflated(body: bytes) -> bytes:
    # With the header of gzip or of zlib; some servers leave out zlib's.
    for window in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        decoder = zlib.decompressobj(window)
        try:
            plain = decoder.decompress(body, MAX_ANSWER_BYTES + 1)
        except zlib.error:
            continue
        if not decoder.eof and len(plain) <= MAX_ANSWER_BYTES:
            raise httpx.DecodingError("its compressed body ends too early")
        return plain
    raise httpx.DecodingError("its body is not compressed as its headers say")


def _too_long(status: int) -> ProcessingError:
    return ProcessingError(
        f"the answer exceeds {MAX_ANSWER_BYTES // 1024 // 1024} MiB",
        failure=Failure.POISON,
        stage=Stage.CALL,
        reason="AnswerInvalid",
        status=status,
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _lost(url: httpx.URL, field: str, error: Exception) -> ProcessingError:
    """What a failed connection means."""
    server = url.copy_with(username=None, password=None)
    place = f"{server.scheme}://{server.netloc.decode()}"
    cause = error.__cause__
    if isinstance(cause, socket.gaierror):
        if cause.errno == socket.EAI_AGAIN:
            return unreachable(f"{place}: name service does not answer")
        return misconfigured(f"{place}: no such host; check {field}", Reason.FLOW_UNREACHABLE)
    if any(isinstance(e, ssl.SSLError) for e in _chain(error)):
        return misconfigured(
            f"{place}: TLS failed: {cause}; check {field}, the server's certificate and"
            f" {field.partition('.auth.')[0].removesuffix('.url')}.tls",
            Reason.FLOW_UNREACHABLE,
        )
    if isinstance(error, httpx.UnsupportedProtocol):
        return misconfigured(f"{place}: not an address to call; check {field}")
    if isinstance(error, httpx.LocalProtocolError):
        return ProcessingError(
            f"{place}: not sent: {error}",
            failure=Failure.POISON,
            stage=Stage.TEMPLATE,
            reason="TemplateFailed",
        )
    if isinstance(error, httpx.ConnectError):
        return unreachable(f"{place}: cannot connect: {getattr(cause, 'strerror', '') or error}")
    if isinstance(error, httpx.WriteError):
        return unreachable(f"{place}: {error}; nothing was sent")
    if isinstance(error, httpx.ConnectTimeout):
        return unreachable(f"{place}: no connection in time")
    if isinstance(error, httpx.ProxyError):
        return _refused_by_proxy(place, str(error))
    if isinstance(error, httpx.DecodingError):
        return unreachable(f"{place}: broken answer ({error})", outcome_unknown=True)
    return unreachable(f"{place}: connection lost ({error}); outcome unknown", outcome_unknown=True)


def _refused_by_proxy(place: str, said: str) -> ProcessingError:
    what = f"{place}: the proxy answered {said}"
    if said[:1] == "5" or said.startswith("429"):
        return unreachable(what)
    return misconfigured(f"{what}; check HTTPS_PROXY", Reason.FLOW_UNREACHABLE)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__
