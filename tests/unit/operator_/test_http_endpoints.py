"""/healthz and /metrics, over HTTP."""

from __future__ import annotations

import aiohttp
from aiohttp.test_utils import unused_port

from outbox_operator import http_endpoints


async def test_healthz_says_why_not() -> None:
    port, why = unused_port(), ["the last list is old", None]
    serving = http_endpoints.serving(port=port, unhealthy=lambda: why.pop(), metrics=lambda: b"")
    async with serving, aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert (response.status, await response.text()) == (503, "the last list is old\n")


async def test_metrics_are_what_prometheus_takes() -> None:
    port = unused_port()
    serving = http_endpoints.serving(port=port, unhealthy=lambda: None, metrics=lambda: b"outbox_operator_acting 1.0\n")
    async with serving, aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as response:
        assert (response.content_type, response.charset) == ("text/plain", "utf-8")
        assert await response.text() == "outbox_operator_acting 1.0\n"
