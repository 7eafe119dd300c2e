"""Which requests are open, and how long the loop that looks for them lives; tests/contract has what they do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from bento_outbox.failed_filter import Filter
from outbox_projector.health import Health
from outbox_projector.request_store import Request, filter_of
from outbox_projector.requeue import Requests, carrying_out, open_requests
from outbox_projector.store import Backlog


@pytest.mark.parametrize(
    ("spec", "status", "found"),
    [
        ({}, {}, []),
        ({"requeue": {"requestId": "1"}}, {}, [("requeue", "1")]),
        ({"requeue": {"requestId": "1"}}, {"requeue": {"requestId": "1", "state": "Running"}}, [("requeue", "1")]),
        ({"requeue": {"requestId": "1"}}, {"requeue": {"requestId": "1", "state": "Completed"}}, []),
        ({"requeue": {"requestId": "1"}}, {"requeue": {"requestId": "1", "state": "Failed"}}, []),
        ({"requeue": {"requestId": "2"}}, {"requeue": {"requestId": "1", "state": "Completed"}}, [("requeue", "2")]),
        ({"discard": {"requestId": "1"}}, {"requeue": {"requestId": "1", "state": "Completed"}}, [("discard", "1")]),
        ({}, {"requeue": {"requestId": "1", "state": "Running"}}, []),
    ],
)
def test_open_requests(spec: dict[str, Any], status: dict[str, Any], found: list[tuple[str, str]]) -> None:
    requests = open_requests({"spec": spec, "status": status})
    assert [(request.action, request.id) for request in requests] == found


def test_nothing_is_asked_for_before_the_first_answer() -> None:
    assert list(open_requests({})) == []


def test_the_filter_of_a_request() -> None:
    spec = {"requeue": {"requestId": "1", "filter": {"type": "orders.Placed"}}}
    assert list(open_requests({"spec": spec})) == [Request(action="requeue", id="1", filter=spec["requeue"]["filter"])]


def test_a_filter_in_the_terms_of_the_library() -> None:
    wanted = {
        "type": "orders.Placed",
        "aggregateId": "order-1",
        "errorContains": "schema",
        "createdAfter": "2026-01-01T00:00:00Z",
        "createdBefore": "2026-01-02t00:00:00z",
        "failedAfter": "2026-01-03T01:00:00+01:00",
        "failedBefore": "2026-01-04T00:00:00.000Z",
    }
    first, second, third, fourth = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4))
    assert filter_of("acme", wanted) == Filter(
        tenant_id="acme",
        type="orders.Placed",
        aggregate_id="order-1",
        error="schema",
        since=first,
        until=second,
        failed_since=third,
        failed_until=fourth,
    )
    assert filter_of("acme", {}) == Filter(tenant_id="acme")


class BrokenResource:
    """A resource with a defect."""

    latest: Mapping[str, Any] = {}

    async def read(self) -> None:
        raise RuntimeError("a defect")

    async def write_request(self, action: str, status: Mapping[str, Any]) -> None:
        raise NotImplementedError


async def test_a_defect_ends_the_projector(health: Health) -> None:
    health.measured(Backlog(pending=0, errors=1, oldest_seconds=0))
    store: Any = None  # it does not get that far
    with pytest.raises(ExceptionGroup) as raised:
        async with carrying_out(Requests(resource=BrokenResource(), store=store, health=health, look_seconds=0)):
            await asyncio.Event().wait()
    assert raised.group_contains(RuntimeError, match="a defect")


async def test_the_end_of_the_projector_ends_it(health: Health) -> None:
    store: Any = None
    async with carrying_out(Requests(resource=BrokenResource(), store=store, health=health)):
        pass
