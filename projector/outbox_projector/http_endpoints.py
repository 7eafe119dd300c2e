"""/healthz, /readyz and /metrics, from a thread: they answer also when the loop is stuck.

/healthz  200 while the loop turns. An outage elsewhere is no reason to restart this pod.
/readyz   200 once the state of both connections is known, good or bad: a bad one is told by the OutboxTenant's
          conditions, with its cause; an unready pod could only say that it is not ready.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from bento_outbox import MisuseError
from outbox_projector.health import Health
from outbox_projector.metrics import Metrics

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""As WSGI defines it."""
TEXT = "text/plain; charset=utf-8"


def endpoints(health: Health, metrics: Metrics) -> Application:
    """The three endpoints as an application."""

    def healthz() -> tuple[HTTPStatus, str, bytes]:
        if health.loop_is_alive:
            return HTTPStatus.OK, TEXT, b"ok\n"
        return HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, b"the projector's loop is stuck\n"

    def readyz() -> tuple[HTTPStatus, str, bytes]:
        lines = "".join(f"{c.type}={c.status} {c.reason} {c.message}".rstrip() + "\n" for c in health.conditions)
        known = health.knows_its_state
        return HTTPStatus.OK if known else HTTPStatus.SERVICE_UNAVAILABLE, TEXT, lines.encode()

    def exposition() -> tuple[HTTPStatus, str, bytes]:
        return HTTPStatus.OK, "text/plain; version=0.0.4", metrics.exposition()

    answers = {"/healthz": healthz, "/readyz": readyz, "/metrics": exposition}

    def application(request: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = answers.get(request["PATH_INFO"])
        status, kind, body = answer() if answer else (HTTPStatus.NOT_FOUND, TEXT, b"not found\n")
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        start_response(f"{status.value} {status.phrase}", headers)
        return [body]

    return application


@asynccontextmanager
async def served(application: Application, port: int) -> AsyncIterator[None]:
    """Serves on all addresses; port 0 serves nothing. Raises MisuseError when the port is taken."""
    if port == 0:
        yield
        return
    server = _started(port)
    server.set_app(application)
    try:
        yield
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()


def _started(port: int) -> WSGIServer:
    """The server that comes with the metrics: it serves nothing else until it is told what."""
    try:
        try:
            return start_http_server(port, "::")[0]  # IPv4 as well
        except OSError:
            return start_http_server(port)[0]  # on a machine without IPv6
    except OSError as error:
        raise MisuseError(
            f"port {port} cannot be used ({os.strerror(error.errno or 0)}): set OUTBOX_HTTP_PORT"
        ) from error
