"""Flows on any server with an HTTP API, as `spec.flow.http` describes it."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx

from flowbinding_api.flow import Flow
from flowbinding_api.presets import resolved
from flowbinding_worker import jsons
from flowbinding_worker.files import Files
from flowbinding_worker.flows.http_answer import read
from flowbinding_worker.flows.http_client import FlowClient, Server
from flowbinding_worker.flows.transport import Transport
from flowbinding_worker.ports import Failure, FlowRequest, FlowResult, ProcessingError, Stage


class HttpFlow:
    """Sends what was rendered for a message, and finds the answer in what comes back.

    A request that got no answer may have run: a timeout is an unknown outcome.

    Args:
        flow: A flow with backend HTTP.
        files: Where its Secrets are mounted; read for each run, so that new ones work at once.
        transport: Instead of a real one, in tests.
    """

    def __init__(self, flow: Flow, files: Files, *, transport: Transport | None = None) -> None:
        self._http = resolved(flow.http, flow.url or "")
        self._method = str(self._http.method)
        self._client = FlowClient(Server.of_flow(flow), files, transport=transport)
        self._answered = ""
        """Path of the last run that succeeded."""

    async def start(self) -> None:
        """Check that the address is one and that the Secrets can be used; calls nothing.

        Raises:
            ProcessingError: CONFIGURATION with reason SecretMissing, FlowUnauthorized or
                FlowMisconfigured.
        """
        self._client.check()

    async def run(self, request: FlowRequest) -> FlowResult:
        """Run the flow once; see `http_answer` for what each failure means.

        Raises:
            ProcessingError: Classified.
        """
        if request.http is None:
            raise _refused("spec.flow.http: nothing was rendered")
        own = request.http.headers
        body = b"" if request.http.body is None else _encoded(request.http.body)
        headers = {"X-Request-Id": request.request_id}
        if body:
            headers["Content-Type"] = "application/json"
        named = {name.lower() for name in own}
        headers = {name: text for name, text in headers.items() if name.lower() not in named}
        url = self._url(request.http.path)
        answer = await self._client.call(self._method, url, {**headers, **own}, body)
        try:
            result = read(self._http, answer, now=datetime.now(UTC))
        except ProcessingError as error:
            raise self._judged(error, url.path) from None
        self._answered = url.path
        return result

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def _judged(self, error: ProcessingError, path: str) -> ProcessingError:
        """Tell a message's path that leads nowhere from a server that has nothing for anybody."""
        if error.status != 404 or self._answered in ("", path):
            return error
        return ProcessingError(
            f"{error}; other paths are there: spec.flow.http.path made this one of the message",
            failure=Failure.POISON,
            stage=error.stage,
            reason=error.reason,
            status=error.status,
            response=error.response,
            ran=error.ran,
        )

    def _url(self, path: str) -> httpx.URL:
        base = self._client.base
        if not path:
            return base
        below, _, query = path.partition("?")
        there, _, asked = base.raw_path.decode().partition("?")
        if below:
            there = f"{there.rstrip('/')}/{below.lstrip('/')}"
        asked = "&".join(filter(None, (asked, query)))
        try:
            return base.copy_with(raw_path=(f"{there}?{asked}" if asked else there).encode())
        except httpx.InvalidURL as error:
            raise _refused(f"spec.flow.http.path: {error}") from None


def _encoded(body: object) -> bytes:
    try:
        return jsons.dump_finite(body)
    except (TypeError, ValueError) as error:
        raise _refused(f"spec.flow.http.body: not JSON data: {error}") from None


def _refused(message: str) -> ProcessingError:
    return ProcessingError(
        message, failure=Failure.POISON, stage=Stage.TEMPLATE, reason="TemplateFailed"
    )
