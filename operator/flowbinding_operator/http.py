"""/livez, /readyz and /metrics.

kopf has a liveness endpoint of its own, but it is green as long as its own task lives, whatever the
watches and our loops do, and its answers are ten seconds old. So this is a small server of our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

Check = Callable[[], list[str]]
"""Says what is wrong; nothing is good."""


def application(live: Check, ready: Check, registry: CollectorRegistry) -> web.Application:
    """The three pages; /healthz is another name for /livez."""

    async def metrics(request: web.Request) -> web.Response:
        # The client library's content type has parameters that aiohttp wants apart.
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        # As the client library's own page: who wants a few of thousands of series says which.
        names = request.query.getall("name[]", [])
        shown = registry.restricted_registry(names) if names else registry
        # Elsewhere: thousands of series would keep everything else waiting.
        body = await asyncio.to_thread(generate_latest, shown)
        return web.Response(body=body, headers=headers)

    app = web.Application()
    app.router.add_get("/livez", _page(live))
    app.router.add_get("/healthz", _page(live))
    app.router.add_get("/readyz", _page(ready))
    app.router.add_get("/metrics", metrics)
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the block ends. Gives the port, which matters when 0 was asked for."""
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _page(check: Check) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def page(_: web.Request) -> web.Response:
        problems = check()
        text = "\n".join(problems) if problems else "ok"
        return web.Response(text=text + "\n", status=500 if problems else 200)

    return page
