"""/healthz, /readyz and /metrics."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any
from urllib.request import urlopen

import httpx
import pytest
from aiohttp.test_utils import unused_port

from bento_outbox import BusUnavailable, MisuseError
from outbox_projector.health import STUCK_AFTER_SECONDS, Health
from outbox_projector.http_endpoints import endpoints, served
from outbox_projector.metrics import Metrics


@pytest.fixture
async def client(health: Health, metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    port = unused_port()
    async with (
        served(endpoints(health, metrics), port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


async def test_healthz_while_the_loop_turns(client: httpx.AsyncClient) -> None:
    response = await client.get("/healthz")

    assert (response.status_code, response.text) == (200, "ok\n")


async def test_healthz_when_the_loop_is_stuck(client: httpx.AsyncClient, clock: Any) -> None:
    clock.advance(STUCK_AFTER_SECONDS)

    response = await client.get("/healthz")

    assert (response.status_code, response.text) == (500, "the projector's loop is stuck\n")


async def test_an_outage_is_no_reason_to_restart(client: httpx.AsyncClient, health: Health) -> None:
    health.broker_failed(BusUnavailable("down"))

    assert (await client.get("/healthz")).status_code == 200


async def test_readyz_until_the_connections_were_tried(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).status_code == 503


async def test_readyz_when_all_is_well(client: httpx.AsyncClient, health: Health) -> None:
    health.database_answered()
    health.broker_answered()

    response = await client.get("/readyz")

    assert response.status_code == 200
    assert (response.text).splitlines()[:2] == [
        "DatabaseReachable=True Connected",
        "BrokerReachable=True Connected",
    ]


async def test_readyz_tells_the_cause_of_an_outage(client: httpx.AsyncClient, health: Health) -> None:
    health.database_answered()
    health.broker_failed(BusUnavailable("no namespace public/shop", reason="PulsarNamespaceNotFound"))

    response = await client.get("/readyz")

    assert response.status_code == 200
    assert "BrokerReachable=False PulsarNamespaceNotFound no namespace public/shop" in response.text


async def test_metrics_in_the_form_that_prometheus_reads(client: httpx.AsyncClient, health: Health) -> None:
    health.settled(sent=3, retried=0, failed=0)

    response = await client.get("/metrics")

    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'outbox_events_published_total{tenant="acme"} 3.0' in response.text


async def test_anything_else_is_not_there(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).status_code == 404


async def test_it_answers_while_the_loop_is_stuck(health: Health, metrics: Metrics) -> None:
    port = unused_port()
    async with served(endpoints(health, metrics), port):
        # In this thread, which is the loop's: nothing else runs meanwhile.
        with urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as response:  # noqa: ASYNC210 - that is the point
            assert response.status == 200


async def test_served_on_the_port_and_no_longer_afterwards(health: Health, metrics: Metrics) -> None:
    port = unused_port()
    async with httpx.AsyncClient() as client:
        async with served(endpoints(health, metrics), port):
            assert (await client.get(f"http://127.0.0.1:{port}/healthz")).status_code == 200
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/healthz")


async def test_port_0_serves_nothing(health: Health, metrics: Metrics) -> None:
    before = set(threading.enumerate())
    async with served(endpoints(health, metrics), 0):
        assert set(threading.enumerate()) == before
    async with served(endpoints(health, metrics), unused_port()):
        assert set(threading.enumerate()) != before


async def test_a_port_that_is_taken_is_named(health: Health, metrics: Metrics) -> None:
    port = unused_port()
    async with served(endpoints(health, metrics), port):
        with pytest.raises(MisuseError, match=rf"port {port} cannot be used \(.+\): set OUTBOX_HTTP_PORT"):
            async with served(endpoints(health, metrics), port):
                pass
