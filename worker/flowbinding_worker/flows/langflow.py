"""Flows on a Langflow server: POST /api/v1/run/{id}."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

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
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Stage

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 75.0

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
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
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
        client = self._connected()
        headers = self._headers(request.request_id)
        body = self._body(request)
        try:
            async with asyncio.timeout(self._flow.timeout_seconds):
                answer = await _post(client, self._url, body, headers)
        except TimeoutError:
            raise timed_out(self._flow.timeout_seconds) from None
        except (httpx.TransportError, aiohttp.ClientError, OSError) as error:
            raise _transport_failure(self._server(), error) from None
        return self._result(answer, headers.get(self._flow.api_key_header))

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _connected(self) -> httpx.AsyncClient:
        if self._client is None:
            server = self._server()
            self._url = self._run_url()
            transport = self._transport or make_transport(server, self._slots)
            self._client = httpx.AsyncClient(
                transport=transport,
                timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
                follow_redirects=False,
                # One message's cookies must not travel with another's.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        return self._client

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
        headers = {"X-Request-Id": request_id, "Content-Type": "application/json"}
        ref = self._flow.api_key_secret_ref
        if ref is not None:
            raw = self._files.secret(ref, "spec.flow.apiKeySecretRef")
            headers[self._flow.api_key_header] = _api_key(raw)
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
            return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise _refused(f"spec.flow.tweaks: not JSON data: {error}") from None

    def _result(self, answer: Answer, secret: str | None) -> FlowResult:
        if not 200 <= answer.status < 300 or not answer.is_json:
            # Proxies have been seen to write a request's headers into their error pages.
            body = answer.body.replace(secret, "…") if secret else answer.body
            raise http_failure(replace(answer, body=body), now=datetime.now(UTC))
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


def make_transport(server: httpx.URL, slots: int) -> httpx.AsyncBaseTransport:
    """Aiohttp's connections behind httpx's interface.

    httpx's own pool does 72 requests a second at 100 in flight, this one 930. Proxies of the
    environment (HTTPS_PROXY, NO_PROXY) are looked up once: one process talks to one server.
    """
    context = httpx.create_ssl_context()

    def session() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=slots, keepalive_timeout=KEEPALIVE_SECONDS, ssl=context
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return AiohttpTransport(client=session, verify=context, proxy=_proxy(server))


def _proxy(server: httpx.URL) -> httpx.Proxy | None:
    proxies = urllib.request.getproxies()
    found = proxies.get(server.scheme) or proxies.get("all")
    if not found or urllib.request.proxy_bypass(server.host):
        return None
    return httpx.Proxy(found)


async def _post(
    client: httpx.AsyncClient, url: httpx.URL, body: bytes, headers: Mapping[str, str]
) -> Answer:
    async with client.stream("POST", url, content=body, headers=headers) as response:
        received = bytearray()
        async for chunk in response.aiter_bytes():
            received += chunk
            if len(received) > MAX_ANSWER_BYTES:
                raise ProcessingError(
                    f"the answer exceeds {MAX_ANSWER_BYTES // 1024 // 1024} MiB",
                    failure=Failure.POISON,
                    stage=Stage.CALL,
                    reason="AnswerInvalid",
                    status=response.status_code,
                )
        found = response.headers
        return Answer(
            status=response.status_code,
            content_type=found.get("content-type", "").partition(";")[0].strip().lower(),
            body=received.decode("utf-8", "replace"),
            location=found.get("location", ""),
            retry_after=found.get("retry-after", ""),
        )


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
        return unreachable(f"{place}: no connection within {CONNECT_SECONDS:g} s")
    what = str(cause) or type(cause).__name__
    return unreachable(f"{place}: connection lost ({what}); outcome unknown")
