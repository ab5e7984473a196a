"""`/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from flowbinding_worker.metrics import CONTENT_TYPE, Metrics

MAX_LAG_SECONDS = 5.0
TICK_SECONDS = 0.5


class Pulse:
    """Notices when the event loop stands still."""

    def __init__(self) -> None:
        self._beat = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether the loop has turned lately."""
        return time.monotonic() - self._beat < MAX_LAG_SECONDS

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)


@asynccontextmanager
async def serving(
    host: str, port: int, metrics: Metrics, ready: Callable[[], bool]
) -> AsyncIterator[None]:
    """Serve for as long as the context lasts.

    A task of the engine that has died ends the process, so a process that answers is alive.

    Raises:
        OSError: The address cannot be listened on.
    """
    pulse = Pulse()

    async def livez(_: web.Request) -> web.Response:
        return _answer(pulse.alive)

    async def readyz(_: web.Request) -> web.Response:
        return _answer(ready())

    async def numbers(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.add_routes(
        [web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", numbers)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    beating = asyncio.create_task(pulse.run())
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        beating.cancel()
        await runner.cleanup()


def _answer(good: bool) -> web.Response:
    return web.Response(text="ok\n" if good else "not now\n", status=200 if good else 503)
