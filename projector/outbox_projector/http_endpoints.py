"""/healthz, /readyz and /metrics.

/healthz  200 while the loop turns. An outage elsewhere is no reason to restart this pod.
/readyz   200 once the state of both connections is known, good or bad: a bad one is told by the OutboxTenant's
          conditions, with its cause; an unready pod could only say that it is not ready.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from bento_outbox import MisuseError
from outbox_projector.health import Health
from outbox_projector.metrics import Metrics


def endpoints(health: Health, metrics: Metrics) -> web.Application:
    """The three endpoints as an application."""

    async def healthz(_: web.Request) -> web.Response:
        if health.loop_is_alive:
            return web.Response(text="ok\n")
        return web.Response(status=500, text="the projector's loop is stuck\n")

    async def readyz(_: web.Request) -> web.Response:
        lines = "".join(f"{c.type}={c.status} {c.reason} {c.message}".rstrip() + "\n" for c in health.conditions)
        return web.Response(status=200 if health.knows_its_state else 503, text=lines)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4"})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    return application


@asynccontextmanager
async def served(application: web.Application, port: int) -> AsyncIterator[None]:
    """Serves on all addresses; port 0 serves nothing. Raises MisuseError when the port is taken."""
    if port == 0:
        yield
        return
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, None, port).start()
        except OSError as error:
            raise MisuseError(
                f"port {port} cannot be used ({os.strerror(error.errno or 0)}): set OUTBOX_HTTP_PORT"
            ) from error
        yield
    finally:
        await runner.cleanup()
