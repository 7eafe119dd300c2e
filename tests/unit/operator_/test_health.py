"""/healthz, over HTTP."""

from __future__ import annotations

import aiohttp
from aiohttp.test_utils import unused_port

from outbox_operator import health


async def test_healthz_says_why_not() -> None:
    port, why = unused_port(), ["the last list is old", None]
    async with health.serving(port=port, unhealthy=lambda: why.pop()), aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        async with http.get(f"http://127.0.0.1:{port}/healthz") as response:
            assert (response.status, await response.text()) == (503, "the last list is old\n")
