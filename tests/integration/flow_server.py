"""A stand-in for a Langflow server: it answers as told, and remembers each call.

No Langflow is involved. It speaks just enough of POST /api/v1/run/{id} for tests of what the worker
does around a flow; tests against the real server are elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Call:
    """One run that was asked for."""

    input: str
    session: str
    request_id: str
    start: float
    flow: str = ""
    api_key: str | None = None
    end: float | None = None
    ok: bool = False
    """Whether it was answered with a result; the worker may have been gone by then."""

    @property
    def place(self) -> tuple[int, int]:
        """Partition and offset of the message."""
        _, partition, offset = self.request_id.rsplit("-", 2)
        return int(partition), int(offset)


Answer = Callable[[Call], Awaitable[web.Response | None]]


@dataclass
class FlowServer:
    """Answers with the input, after `seconds`, unless `answer` gives something else."""

    url: str = ""
    seconds: float = 0.0
    answer: Answer | None = None
    calls: list[Call] = field(default_factory=list)
    running: int = 0
    most: int = 0

    @property
    def inputs(self) -> list[str]:
        return [call.input for call in self.calls]

    @property
    def answered(self) -> set[tuple[int, int]]:
        """Partition and offset of the messages that were answered with a result."""
        return {call.place for call in self.calls if call.ok}

    def spec(self, **more: Any) -> dict[str, Any]:
        """`spec.flow` of a binding that calls this server."""
        return {"backend": "Langflow", "id": "flow", "url": self.url, **more}

    async def run(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        call = Call(
            body["input_value"],
            body["session_id"],
            request.headers["X-Request-Id"],
            time.monotonic(),
            request.match_info["id"],
            request.headers.get("x-api-key"),
        )
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            response = await self.answer(call) if self.answer else None
            if response is None:
                await asyncio.sleep(self.seconds)
                response = web.json_response(answered(call.input))
            call.ok = response.status == 200
            return response
        finally:
            self.running -= 1
            call.end = time.monotonic()


def answered(text: str) -> dict[str, Any]:
    """A run's answer, cut down to what counts."""
    result = {"component_id": "ChatOutput-1", "results": {"message": {"text": text}}}
    return {"session_id": "s", "outputs": [{"inputs": {}, "outputs": [result]}]}


def refused(status: int, detail: str, **headers: str) -> web.Response:
    """An error as Langflow words it."""
    return web.json_response({"detail": detail}, status=status, headers=headers)


@asynccontextmanager
async def flow_server() -> AsyncIterator[FlowServer]:
    """A server on a free port of this machine."""
    server = FlowServer()
    app = web.Application()
    app.add_routes([web.post("/api/v1/run/{id}", server.run)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
