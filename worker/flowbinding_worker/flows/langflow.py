"""Flows on a Langflow server: POST /api/v1/run/{id}."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import urllib.parse
from collections.abc import AsyncIterable, Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp
import httpx

from flowbinding_api.flow import Flow
from flowbinding_api.reasons import Reason
from flowbinding_worker.files import Files
from flowbinding_worker.flows.classify import (
    Answer,
    http_failure,
    misconfigured,
    timed_out,
    unreachable,
)
from flowbinding_worker.flows.extract import Answers
from flowbinding_worker.flows.transport import make_transport
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Stage
from flowbinding_worker.redaction import redact

CONNECT_SHARE = 0.9
"""Of a call's time, for a connection at most: without one, nothing was asked for."""

_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

_SECRET_PARTS = re.compile(r"(?<=://)[^/@\s]*(?=@)|(?<=\?)[^\s'\")]+")
"""User, password and query of URLs, which aiohttp's errors quote."""

MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Langflow's answers are about six times their text."""


class LangflowFlow:
    """Runs a flow through Langflow's run API.

    Langflow ignores what it does not understand (a wrong type becomes an empty input, an unknown
    tweak is dropped), so types are checked here before anything is sent. It also goes on with a
    run whose client has left: a timeout is an unknown outcome.

    Args:
        flow: A flow with backend Langflow and an id.
        files: Where the API key's Secret is mounted; read for each run, so that a new key works
            at once.
        slots: Runs in flight at most.
        transport: Instead of a real one, in tests.
    """

    def __init__(
        self,
        flow: Flow,
        files: Files,
        *,
        slots: int,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._flow = flow
        self._files = files
        self._slots = slots
        self._given = transport
        self._transport: httpx.AsyncBaseTransport | None = None
        self._url = httpx.URL()
        self._answers = Answers(flow.output_component)

    async def start(self) -> None:
        """Prepare the client and check that the API key can be read; calls nothing.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing or FlowMisconfigured.
        """
        self._connected()
        self._headers("start")

    async def run(self, request: FlowRequest) -> FlowResult:
        """Run the flow once; see `classify` for what each failure means.

        Raises:
            ProcessingError: Classified.
        """
        transport = self._connected()
        headers = self._headers(request.request_id)
        body = self._body(request)
        try:
            async with asyncio.timeout(self._flow.timeout_seconds):
                answer = await _post(transport, self._url, body, headers)
        except TimeoutError:
            raise timed_out(self._flow.timeout_seconds) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _transport_failure(self._server(), error) from None
        return self._result(answer)

    async def close(self) -> None:
        """Close all connections."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    def _connected(self) -> httpx.AsyncBaseTransport:
        if self._transport is None:
            server = self._server()
            self._url = self._run_url()
            self._transport = self._given or make_transport(
                server, self._slots, CONNECT_SHARE * self._flow.timeout_seconds
            )
        return self._transport

    def _server(self) -> httpx.URL:
        """The server's address without user and password."""
        try:
            url = httpx.URL(self._flow.url or "").copy_with(username=None, password=None)
        except httpx.InvalidURL as error:
            raise misconfigured(f"spec.flow.url: not a URL: {error}") from None
        if not url.host or (url.port or 0) > 65535:
            raise misconfigured("spec.flow.url: not a URL: no such host or port")
        return url

    def _run_url(self) -> httpx.URL:
        base = httpx.URL(self._flow.url or "")
        identity = urllib.parse.quote(self._flow.id or "", safe="")
        path = f"{base.path.rstrip('/')}/api/v1/run/{identity}"
        return base.copy_with(path=path).copy_set_param("stream", "false")

    def _headers(self, request_id: str) -> dict[str, str]:
        headers = {
            "X-Request-Id": request_id,
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip, deflate",
        }
        ref = self._flow.api_key_secret_ref
        if ref is not None:
            raw = self._files.secret(ref, "spec.flow.apiKeySecretRef")
            key = headers[self._flow.api_key_header] = _api_key(raw)
            # `Bearer <token>` is a secret, and the token alone is one.
            redact.learn(key.rpartition(" ")[2])
            if self._flow.api_key_header.lower() == "authorization" and self._url.userinfo:
                raise misconfigured(
                    "spec.flow.url: its user and password travel in the header Authorization, which"
                    " spec.flow.apiKeyHeader names as well; remove one of them"
                )
        return headers

    def _body(self, request: FlowRequest) -> bytes:
        _check_types(request.input, request.session_id, request.tweaks)
        body = {
            "input_value": request.input,
            "input_type": self._flow.input_type,
            "output_type": self._flow.output_type,
            "session_id": request.session_id,
            "tweaks": dict(request.tweaks),
        }
        if self._flow.output_component is not None:
            body["output_component"] = self._flow.output_component
        try:
            return _JSON.encode(body).encode()
        except (TypeError, ValueError) as error:
            raise _refused(f"spec.flow.tweaks: not JSON data: {error}") from None

    def _result(self, answer: Answer) -> FlowResult:
        if not 200 <= answer.status < 300 or not answer.is_json:
            raise http_failure(answer, now=datetime.now(UTC))
        try:
            document = json.loads(answer.body)
        except (ValueError, RecursionError):
            raise ProcessingError(
                f"Langflow answered {answer.status} with broken JSON",
                failure=Failure.POISON,
                stage=Stage.CALL,
                reason="AnswerInvalid",
                status=answer.status,
                response=answer.body,
            ) from None
        return self._answers.of(document)


async def _post(
    transport: httpx.AsyncBaseTransport, url: httpx.URL, body: bytes, headers: Mapping[str, str]
) -> Answer:
    # Straight to the transport: what httpx's client adds (cookies, redirects, hooks) is switched
    # off here anyway, and takes as long as the call itself.
    request = httpx.Request("POST", url, headers=headers, stream=httpx.ByteStream(body))
    response = await transport.handle_async_request(request)
    try:
        # As one dictionary: each look into httpx's headers walks through all of them.
        found = {name.lower(): value for name, value in response.headers.raw}
        content_type = _text(found.get(b"content-type", b""))
        return Answer(
            status=response.status_code,
            content_type=content_type.partition(";")[0].strip().lower(),
            body=_text(await _read(response, plain=b"content-encoding" not in found)),
            location=_text(found.get(b"location", b"")),
            retry_after=_text(found.get(b"retry-after", b"")),
        )
    finally:
        await response.aclose()


async def _read(response: httpx.Response, *, plain: bool) -> bytes:
    received = bytearray()
    stream = response.stream
    chunks = stream if plain and isinstance(stream, AsyncIterable) else response.aiter_bytes()
    async for chunk in chunks:
        received += chunk
        if len(received) > MAX_ANSWER_BYTES:
            raise ProcessingError(
                f"the answer exceeds {MAX_ANSWER_BYTES // 1024 // 1024} MiB",
                failure=Failure.POISON,
                stage=Stage.CALL,
                reason="AnswerInvalid",
                status=response.status_code,
            )
    return bytes(received)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _check_types(text: Any, session: Any, tweaks: Any) -> None:
    """Refuse what Langflow would take for an empty input, with a 200."""
    if not isinstance(text, str):
        raise _refused(f"spec.flow.input: expected text, got {type(text).__name__}")
    if not isinstance(session, str) or not session:
        raise _refused("spec.flow.sessionId: expected text that is not empty")
    if not isinstance(tweaks, Mapping):
        raise _refused(f"spec.flow.tweaks: expected an object, got {type(tweaks).__name__}")


def _refused(message: str) -> ProcessingError:
    return ProcessingError(
        message, failure=Failure.POISON, stage=Stage.TEMPLATE, reason="TemplateFailed"
    )


def _api_key(raw: bytes) -> str:
    # Keys are often saved with a newline at the end.
    text = raw.decode("utf-8", "replace").strip()
    if not text or not text.isascii() or not text.isprintable():
        problem = "holds characters that no header can carry" if text else "is empty"
        raise misconfigured(
            f"spec.flow.apiKeySecretRef: the API key {problem}", Reason.FLOW_UNAUTHORIZED
        )
    return text


def _transport_failure(server: httpx.URL, error: Exception) -> ProcessingError:
    """What a failed connection means. The transport maps aiohttp's errors coarsely: look behind."""
    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    place = f"{server.scheme}://{server.netloc.decode()}"
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        if getattr(cause.os_error, "errno", None) == socket.EAI_AGAIN:
            return unreachable(f"{place}: name service does not answer")
        return misconfigured(f"{place}: no such host; check spec.flow.url", Reason.FLOW_UNREACHABLE)
    if isinstance(cause, aiohttp.ClientSSLError | ssl.SSLError):
        return misconfigured(
            f"{place}: TLS failed: {cause}; check spec.flow.url and the server's certificate",
            Reason.FLOW_UNREACHABLE,
        )
    if isinstance(cause, aiohttp.InvalidURL | httpx.UnsupportedProtocol):
        return misconfigured(f"{place}: not an address to call; check spec.flow.url")
    if isinstance(cause, aiohttp.ClientConnectorError):
        return unreachable(f"{place}: cannot connect: {cause.strerror or cause.os_error}")
    if isinstance(cause, aiohttp.ServerTimeoutError):
        return unreachable(f"{place}: no connection in time")
    what = _SECRET_PARTS.sub("***", str(cause) or type(cause).__name__)
    if isinstance(cause, aiohttp.ClientHttpProxyError):
        what = f"{place}: the proxy answered {cause.status} {cause.message}"
        if cause.status >= 500 or cause.status == 429:
            return unreachable(what)
        return misconfigured(f"{what}; check HTTPS_PROXY", Reason.FLOW_UNREACHABLE)
    if isinstance(error, httpx.DecodingError):
        return unreachable(f"{place}: broken answer ({what})", outcome_unknown=True)
    return unreachable(f"{place}: connection lost ({what}); outcome unknown", outcome_unknown=True)
