"""Requests of an OutboxTenant on the real Postgres; the API server is one object in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import InMemoryMessageBus
from bento_outbox.channels import channel_of
from bento_outbox.failed_filter import Action
from bento_outbox.message_form import message_of
from bento_outbox.schema import apply_schema
from bento_outbox.table import outbox_table
from bento_outbox.tenant_roles import bind_role
from outbox_projector import OutboxProjector
from outbox_projector.health import Health
from outbox_projector.metrics import Metrics
from outbox_projector.reporter import StatusWriteFailed
from outbox_projector.request_store import Request, RequestStore
from outbox_projector.requeue import Requests
from outbox_projector.sessions import borrowed
from outbox_projector.store import Backlog
from tests.conftest import unique
from tests.support.roles import Roles
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]
FAILED = {"status": "ERR", "retry_cnt": 5, "last_error": "refused: Schema mismatch"}


class ApiServer:
    """An OutboxTenant as it is; `refuses` writes when told to."""

    def __init__(self) -> None:
        self.spec: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.refuses = False
        self.reads = 0
        self.counts: list[tuple[str, int]] = []

    def asks(self, request_id: str, action: str = "requeue", **filters: str) -> None:
        self.spec[action] = {"requestId": request_id} | ({"filter": filters} if filters else {})

    def says(self, action: str = "requeue") -> tuple[str, str, int]:
        said = self.status[action]
        return said["requestId"], said["state"], said["count"]


class Pod:
    """What one pod knows of it."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self.latest: Mapping[str, Any] = {}

    async def read(self) -> None:
        self._api.reads += 1
        self.latest = {"spec": dict(self._api.spec), "status": dict(self._api.status)}

    async def write_request(self, action: str, status: Mapping[str, Any]) -> None:
        if self._api.refuses:
            raise StatusWriteFailed("the API server answered 500")
        self._api.status[action] = status
        self._api.counts.append((status["state"], status["count"]))
        await self.read()


NewPod = Callable[[], Requests]


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture
def store(sessions: Sessions, tenant: str) -> RequestStore:
    return RequestStore(borrowed(sessions), outbox_table, tenant, batch_size=3)


@pytest.fixture
def health() -> Health:
    health = Health(Metrics("acme"))
    health.measured(Backlog(pending=0, errors=1, oldest_seconds=0))
    return health


@pytest.fixture
def new_pod(api: ApiServer, store: RequestStore, health: Health) -> NewPod:
    return lambda: Requests(resource=Pod(api), store=store, health=health)


async def test_all_failed_events_of_the_tenant_are_requeued(
    api: ApiServer, new_pod: NewPod, rows: Rows, sessions: Sessions
) -> None:
    other = Rows(sessions, unique("other"))
    await other.insert(**FAILED)
    for status in ("ERR", "NEW", "SENT", "ERR", "ERR", "ERR"):
        await rows.insert(**{**FAILED, "status": status})
    api.asks("one")

    await new_pod().look()

    assert api.says() == ("one", "Completed", 4)
    assert api.status["requeue"]["message"] == "4 events requeued"
    assert datetime.fromisoformat(api.status["requeue"]["completedTime"]).tzinfo == UTC
    assert await rows.statuses() == ["NEW", "NEW", "SENT", "NEW", "NEW", "NEW"]
    assert [(row.retry_cnt, "requeued_at" in row.headers) for row in await rows.all()] == [
        (0, True),
        (5, False),
        (5, False),
        (0, True),
        (0, True),
        (0, True),
    ]
    assert await other.statuses() == ["ERR"]


async def test_a_long_run_tells_how_far_it_is(api: ApiServer, store: RequestStore, health: Health, rows: Rows) -> None:
    for _ in range(7):
        await rows.insert(**FAILED)
    api.asks("one")

    await Requests(resource=Pod(api), store=store, health=health, look_seconds=0).look()

    assert api.counts == [("Running", 0), ("Running", 3), ("Running", 6), ("Completed", 7)]


async def test_discard_deletes(api: ApiServer, new_pod: NewPod, rows: Rows) -> None:
    for kind in ("orders.Placed", "orders.Paid", "orders.Placed"):
        await rows.insert(**FAILED, type=kind)
    api.asks("one", "discard", type="orders.Placed")

    await new_pod().look()

    assert api.says("discard") == ("one", "Completed", 2)
    assert api.status["discard"]["message"] == "2 events discarded"
    assert [row.type for row in await rows.all()] == ["orders.Paid"]


EARLY, NOON, LATE = (datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (11, 12, 13))
PLAIN = {"type": "a", "aggregate_id": "a", "last_error": "a", "created_at": NOON, "available_at": NOON}


@pytest.mark.parametrize(
    ("filters", "fits", "fits_not"),
    [
        ({"type": "b"}, {"type": "b"}, {"type": "bb"}),
        ({"aggregateId": "b"}, {"aggregate_id": "b"}, {"aggregate_id": "B"}),
        ({"errorContains": "too LARGE"}, {"last_error": "x Too large y"}, {"last_error": None}),
        ({"errorContains": "%"}, {"last_error": "50 % more"}, {"last_error": "50"}),
        ({"createdAfter": "2026-01-01T12:30:00Z"}, {"created_at": LATE}, {}),
        ({"createdBefore": "2026-01-01T12:00:00+00:00"}, {"created_at": EARLY}, {}),
        ({"failedAfter": "2026-01-01T14:00:00.5+02:00"}, {"available_at": LATE}, {}),
        ({"failedBefore": "2026-01-01T12:00:00.000Z"}, {"available_at": EARLY}, {}),
        ({"type": "b", "aggregateId": "b"}, {"type": "b", "aggregate_id": "b"}, {"type": "b"}),
    ],
)
async def test_filters(
    api: ApiServer,
    new_pod: NewPod,
    rows: Rows,
    filters: dict[str, str],
    fits: dict[str, Any],
    fits_not: dict[str, Any],
) -> None:
    wanted = await rows.insert(**{**PLAIN, "status": "ERR", **fits})
    await rows.insert(**{**PLAIN, "status": "ERR", **fits_not})
    api.asks("one", **filters)

    await new_pod().look()

    assert [row.id for row in await rows.all() if row.status == "NEW"] == [wanted]


async def test_every_combination_of_filters_takes_what_all_of_them_take(
    api: ApiServer, new_pod: NewPod, rows: Rows
) -> None:
    """Rows that differ in all that filters ask for; each request against the same question in Python."""
    for kind, aggregate, error in itertools.product("ab", "ab", "ab"):
        await rows.insert(status="ERR", type=kind, aggregate_id=aggregate, last_error=error)
    columns = {"type": "type", "aggregateId": "aggregate_id", "errorContains": "last_error"}
    pod = new_pod()

    for number, values in enumerate(itertools.product((None, "a", "b"), repeat=3)):
        filters = {name: value for name, value in zip(columns, values, strict=True) if value is not None}
        api.asks(str(number), **filters)
        await pod.look()
        for row in await rows.all():
            fits = all(getattr(row, columns[name]) == value for name, value in filters.items())
            assert row.status == ("NEW" if fits else "ERR")
        await rows.change("status = 'ERR'")


async def test_a_request_id_runs_once(api: ApiServer, new_pod: NewPod, rows: Rows) -> None:
    await rows.insert(**FAILED)
    pod = new_pod()
    for request_id in ("one", "two", "one"):
        api.asks(request_id)
        await pod.look()
        await rows.change("status = 'ERR'")

    assert api.says() == ("one", "Completed", 1)
    await pod.look()
    await new_pod().look()
    assert await rows.statuses() == ["ERR"]


async def test_a_request_that_met_no_failed_event_has_run_as_well(api: ApiServer, new_pod: NewPod, rows: Rows) -> None:
    api.asks("one")
    await new_pod().look()
    assert (api.says(), api.status["requeue"]["message"]) == (("one", "Completed", 0), "0 events requeued")

    await rows.insert(**FAILED)
    api.status.clear()
    await new_pod().look()
    assert (api.says(), await rows.statuses()) == (("one", "Completed", 0), ["ERR"])


async def test_a_crash_between_the_database_and_the_status(api: ApiServer, new_pod: NewPod, rows: Rows) -> None:
    for _ in range(4):
        await rows.insert(**FAILED)
    api.asks("one")
    api.refuses = True
    await new_pod().look()
    assert await rows.count("NEW") == 4
    await rows.change("status = 'ERR'")  # they failed again meanwhile

    api.refuses = False
    await new_pod().look()

    assert api.says() == ("one", "Completed", 4)
    assert await rows.count("ERR") == 4


async def test_a_crash_between_two_batches(api: ApiServer, new_pod: NewPod, store: RequestStore, rows: Rows) -> None:
    for _ in range(7):
        await rows.insert(**FAILED)
    request = Request(action="requeue", id="one", filter={})
    await store.begin(request)
    await store.batch(request)
    assert await rows.statuses() == ["NEW"] * 3 + ["ERR"] * 4

    api.asks("one")
    await new_pod().look()

    assert api.says() == ("one", "Completed", 7)
    # From then on nothing of it changes, the time included.
    assert await store.batch(request) == await store.batch(request)


async def test_a_crash_within_a_batch(
    api: ApiServer, new_pod: NewPod, store: RequestStore, rows: Rows, engine: AsyncEngine
) -> None:
    made = [await rows.insert(**FAILED) for _ in range(3)]
    request = Request(action="requeue", id="one", filter={})
    await store.begin(request)
    waits = text("SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    async with engine.begin() as other:
        await other.execute(text("SELECT FROM outbox WHERE id = :id FOR UPDATE"), {"id": made[-1]})
        batch = asyncio.create_task(store.batch(request))

        async def is_waiting() -> bool:
            async with engine.connect() as connection:
                return (await connection.execute(waits)).first() is not None

        await eventually(is_waiting)
        batch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await batch

    assert await rows.statuses() == ["ERR"] * 3
    api.asks("one")
    await new_pod().look()
    assert api.says() == ("one", "Completed", 3)


async def test_several_pods_at_once(api: ApiServer, new_pod: NewPod, rows: Rows) -> None:
    await rows.insert_many(50)
    await rows.change("status = 'ERR'")
    api.asks("one")
    pods = [new_pod() for _ in range(3)]

    await asyncio.gather(*(pod.look() for pod in pods))
    assert api.says() == ("one", "Completed", 50)
    assert await rows.count("NEW") == 50

    await rows.change("status = 'ERR'")
    await asyncio.gather(*(pod.look() for pod in [*pods, new_pod()]))
    assert api.says() == ("one", "Completed", 50)
    assert await rows.count("NEW") == 0


async def test_a_pod_leaves_a_request_to_the_one_that_is_at_it(
    api: ApiServer, new_pod: NewPod, store: RequestStore, rows: Rows, engine: AsyncEngine, tenant: str
) -> None:
    await rows.insert(**FAILED)
    await store.begin(Request(action="requeue", id="one", filter={}))
    api.asks("one")
    async with engine.begin() as other:
        await other.execute(text("SELECT FROM outbox_request WHERE tenant_id = :tenant FOR UPDATE"), {"tenant": tenant})
        await new_pod().look()
        assert (api.status, await rows.statuses()) == ({}, ["ERR"])

    await new_pod().look()
    assert api.says() == ("one", "Completed", 1)


async def test_it_ends_although_its_events_fail_again_and_others_fail(store: RequestStore, rows: Rows) -> None:
    for _ in range(6):
        await rows.insert(**FAILED)
    request = Request(action="requeue", id="one", filter={})
    await store.begin(request)

    counts = []
    for _ in range(3):
        progress = await store.batch(request)
        assert progress is not None
        counts.append((progress.events, progress.completed_at is not None))
        await rows.change("status = 'ERR'")
        for _ in range(3):
            await rows.insert(**FAILED)

    assert counts == [(3, False), (6, False), (6, True)]


@pytest.mark.parametrize(("action", "events"), [("requeue", 2), ("discard", 1)])
async def test_an_event_that_fails_meanwhile_is_not_discarded(
    store: RequestStore, rows: Rows, action: Action, events: int
) -> None:
    await rows.insert()
    await rows.insert(**FAILED)
    request = Request(action=action, id="one", filter={"failedBefore": "9999-01-01T00:00:00Z"})
    await store.begin(request)
    await rows.change(
        "status = 'ERR', available_at = CASE status WHEN 'NEW' THEN clock_timestamp() ELSE available_at END"
    )

    progress = await store.batch(request)

    assert progress is not None
    assert progress.events == events


async def test_the_filter_that_was_noted_holds(store: RequestStore, rows: Rows) -> None:
    for kind in "aaaab":
        await rows.insert(**FAILED, type=kind)
    await store.begin(Request(action="requeue", id="one", filter={"type": "a"}))
    changed = Request(action="requeue", id="one", filter={"type": "b"})
    await store.begin(changed)
    for _ in range(2):
        await store.batch(changed)
    assert await rows.statuses() == ["NEW"] * 4 + ["ERR"]


async def test_requeue_and_discard_are_two_requests(api: ApiServer, new_pod: NewPod, rows: Rows) -> None:
    for kind in "ab":
        await rows.insert(**FAILED, type=kind)
    api.asks("one", type="a")
    api.asks("one", "discard", type="b")

    await new_pod().look()

    assert (api.says(), api.says("discard")) == (("one", "Completed", 1), ("one", "Completed", 1))
    assert await rows.statuses() == ["NEW"]


async def test_the_message_says_that_it_was_requeued(
    api: ApiServer, new_pod: NewPod, rows: Rows, sessions: Sessions, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert(headers={"locale": "de"})
    await rows.insert(**FAILED, headers={"locale": "de"})
    api.asks("one")
    await new_pod().look()

    await OutboxProjector(sessions, memory_bus, rows.tenant).drain()

    usual, requeued = (message_of(event).properties for event in memory_bus.published)
    assert requeued.keys() - usual.keys() == {"requeued_at"}
    assert datetime.fromisoformat(requeued["requeued_at"]).tzinfo == UTC


@pytest.mark.parametrize(("action", "delivered"), [("requeue", [1, 2, 3, 4, 5]), ("discard", [2, 4, 5])])
async def test_where_aggregates_are_held_they_go_on_in_order(
    api: ApiServer,
    new_pod: NewPod,
    rows: Rows,
    sessions: Sessions,
    memory_bus: InMemoryMessageBus,
    action: str,
    delivered: list[int],
) -> None:
    for number in range(1, 6):
        failed = FAILED if number in (1, 3) else {}
        await rows.insert(aggregate_id="held", payload={"n": number}, **failed)
    await rows.insert(aggregate_id="free", payload={"n": 6})
    await OutboxProjector(sessions, memory_bus, rows.tenant, on_error="HoldAggregate").drain()
    assert [json.loads(event.payload)["n"] for event in memory_bus.published] == [6]

    api.asks("one", action)
    await new_pod().look()
    await OutboxProjector(sessions, memory_bus, rows.tenant, on_error="HoldAggregate").drain()

    assert [json.loads(event.payload)["n"] for event in memory_bus.published] == [6, *delivered]


@pytest.mark.parametrize("action", ["requeue", "discard"])
async def test_the_projector_is_woken(
    api: ApiServer, new_pod: NewPod, rows: Rows, database_url: str, action: str
) -> None:
    """For what was requeued, or for what waited behind the event that was discarded."""
    await rows.insert(**FAILED)
    api.asks("one", action)
    woken = asyncio.Event()
    listening = await asyncpg.connect(database_url)
    await listening.add_listener(channel_of(outbox_table, rows.tenant), lambda *_: woken.set())

    await new_pod().look()

    await asyncio.wait_for(woken.wait(), 10)
    await listening.close()


@pytest.mark.parametrize("when", ["2026-02-30T00:00:00Z", "2026-01-01T00:00:00"])
async def test_a_filter_that_makes_no_sense_fails_for_good(
    api: ApiServer, new_pod: NewPod, rows: Rows, when: str
) -> None:
    await rows.insert(**FAILED)
    api.asks("one", createdAfter=when)
    pod = new_pod()
    await pod.look()
    assert api.says() == ("one", "Failed", 0)
    assert api.status["requeue"]["message"].endswith(": correct it, and ask under another requestId")

    api.asks("one")
    await pod.look()
    assert await rows.statuses() == ["ERR"]


async def test_what_the_database_refuses_fails_the_request_and_not_the_projector(
    api: ApiServer, new_pod: NewPod, rows: Rows
) -> None:
    await rows.insert(**FAILED)
    api.asks("one", errorContains="\0")
    await new_pod().look()
    assert api.says()[:2] == ("one", "Failed")
    assert await rows.statuses() == ["ERR"]


async def test_without_the_table_it_waits(api: ApiServer, health: Health, empty_engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(empty_engine)
    api.asks("one")
    pod = Requests(resource=Pod(api), store=RequestStore(borrowed(sessions), outbox_table, "acme"), health=health)
    await pod.look()
    assert api.says() == ("one", "Running", 0)
    assert "run `bento-outbox schema apply`" in api.status["requeue"]["message"]

    await apply_schema(empty_engine)
    await Rows(sessions, "acme").insert(**FAILED)
    await pod.look()
    assert api.says() == ("one", "Completed", 1)


async def test_nobody_asks_the_api_server_while_nothing_has_failed(
    api: ApiServer, new_pod: NewPod, health: Health
) -> None:
    pod = new_pod()
    await pod.look()
    assert api.reads == 1

    health.measured(Backlog(pending=7, errors=0, oldest_seconds=1))
    await pod.look()
    assert api.reads == 1


async def test_under_a_role_that_is_bound_as_projector(
    api: ApiServer, health: Health, empty_engine: AsyncEngine, empty_database_url: str
) -> None:
    await apply_schema(empty_engine, row_level_security=True)
    roles = Roles(empty_engine, empty_database_url)
    role = await roles.create(unique("projector"))
    await bind_role(empty_engine, role, tenant_id="acme", use="projector")
    acme, bolt = (Rows(async_sessionmaker(empty_engine), tenant) for tenant in ("acme", "bolt"))
    for rows in (acme, bolt):
        for kind in "ab":
            await rows.insert(**FAILED, type=kind)
    api.asks("one", type="a")
    api.asks("one", "discard", type="b")
    sessions = async_sessionmaker(roles.log_in(role))

    await Requests(
        resource=Pod(api), store=RequestStore(borrowed(sessions), outbox_table, "acme"), health=health
    ).look()

    assert (api.says(), api.says("discard")) == (("one", "Completed", 1), ("one", "Completed", 1))
    assert (await acme.statuses(), await bolt.statuses()) == (["NEW"], ["ERR", "ERR"])
    # Set up for the wrong tenant, it can do nothing.
    api.asks("two")
    await Requests(
        resource=Pod(api), store=RequestStore(borrowed(sessions), outbox_table, "bolt"), health=health
    ).look()
    assert api.says() == ("two", "Running", 0)
    assert await bolt.statuses() == ["ERR", "ERR"]
    await roles.close()
