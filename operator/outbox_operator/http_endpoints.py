"""/healthz: 200 while this process does its work, otherwise 503 and why not, in a sentence.

/metrics: what Prometheus scrapes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web


@asynccontextmanager
async def serving(
    *, port: int, unhealthy: Callable[[], str | None], metrics: Callable[[], bytes]
) -> AsyncIterator[None]:
    """Serves as long as the context lasts; asks both at every request. Raises OSError if the port is taken."""

    async def healthz(_: web.Request) -> web.Response:
        why = unhealthy()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", exposition)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()
