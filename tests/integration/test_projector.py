"""The projector with the real Postgres, and a bus that fails as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from bento_outbox import BusUnavailable, Envelope, InMemoryMessageBus, Refusal
from bento_outbox.database_url import parse_database_url
from outbox_projector import OutboxProjector, Polling, Retries
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.projector import Unobserved
from tests.conftest import unique
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]
SWIFT = Retries(maximum=5, initial_seconds=1e-3, longest_seconds=1e-3)
EAGER = Polling(fastest_seconds=0.005, slowest_seconds=0.02)


@pytest.fixture(autouse=True)
def _short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of an outage are bounded by seconds; what happens between them is the same with shorter ones."""
    for module in ("lane", "loop"):
        monkeypatch.setattr(f"outbox_projector.{module}.OUTAGE", SWIFT)


class Watching(Unobserved):
    """Keeps what the projector tells its observer."""

    def __init__(self) -> None:
        self.sent = self.retried = self.failed = 0
        self.database_failures: list[DatabaseUnavailable] = []
        self.broker_failures: list[BusUnavailable] = []

    def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None:
        self.database_failures.append(error)

    def broker_failed(self, error: BusUnavailable, lane: int | None = None) -> None:
        self.broker_failures.append(error)

    def settled(self, *, sent: int, retried: int, failed: int) -> None:
        self.sent += sent
        self.retried += retried
        self.failed += failed


class GatedBus(InMemoryMessageBus):
    """Lets a call of publish wait before it stores anything, until the gate is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.gate = asyncio.Event()

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        self.called.set()
        await self.gate.wait()
        await super().publish(events)


class HalfWayBus(InMemoryMessageBus):
    """Goes away after it has acknowledged the first events of a call."""

    def __init__(self, stores: int) -> None:
        super().__init__()
        self.stores = stores

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        assert not isinstance(events, Envelope)
        stored = events[: self.stores]
        self.published += stored
        if len(stored) < len(events):
            raise BusUnavailable("went away", stored=[event.id for event in stored])


@asynccontextmanager
async def _running(projector: OutboxProjector) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the projector until the end of the block; raises what it raised."""
    task = asyncio.create_task(projector.run_forever())
    try:
        yield task
    finally:
        projector.stop()
        await task


def _ids(bus: InMemoryMessageBus) -> list[UUID]:
    return [event.id for event in bus.published]


async def test_all_new_rows_become_sent_in_their_order(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(250, aggregates=7)
    watching = Watching()
    projector = OutboxProjector(sessions, memory_bus, rows.tenant, 100, observer=watching)

    async with _running(projector):
        await eventually(lambda: _all_are(rows, "SENT"))

    assert _ids(memory_bus) == inserted
    assert (watching.sent, watching.retried, watching.failed) == (250, 0, 0)


async def _all_are(rows: Rows, *statuses: str) -> bool:
    return set(await rows.statuses()) <= set(statuses)


async def test_rows_that_come_while_it_runs_are_delivered(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    async with _running(OutboxProjector(sessions, memory_bus, rows.tenant)):
        for _ in range(3):
            await rows.insert()
            await eventually(lambda: _all_are(rows, "SENT"))

    assert len(memory_bus.published) == 3


async def test_another_tenants_rows_are_left_alone(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    others = Rows(sessions, unique("tenant"))
    await others.insert()
    await rows.insert()

    await OutboxProjector(sessions, memory_bus, rows.tenant).drain()

    assert {event.tenant_id for event in memory_bus.published} == {rows.tenant}
    assert await others.statuses() == ["NEW"]


async def test_a_batch_is_no_larger_than_told(sessions: Sessions, rows: Rows) -> None:
    class CountingBus(InMemoryMessageBus):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[int] = []

        async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
            assert not isinstance(events, Envelope)
            self.batches.append(len(events))
            await super().publish(events)

    inserted = await rows.insert_many(5)
    bus = CountingBus()

    await OutboxProjector(sessions, bus, rows.tenant, 2).drain()

    assert bus.batches == [2, 2, 1]
    assert _ids(bus) == inserted


async def test_a_refused_row_becomes_err_after_its_last_retry(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert(type="orders.Refused")
    await rows.insert(type="orders.Placed")
    memory_bus.refuse("orders.Refused", Refusal("the schema is not registered"))
    watching = Watching()

    async with _running(OutboxProjector(sessions, memory_bus, rows.tenant, retries=SWIFT, observer=watching)):
        await eventually(lambda: _all_are(rows, "SENT", "ERR"))

    refused, sent = await rows.all()
    assert (refused.status, refused.retry_cnt, refused.last_error) == ("ERR", 5, "the schema is not registered")
    assert (sent.status, sent.retry_cnt, sent.last_error) == ("SENT", 0, None)
    assert (watching.sent, watching.retried, watching.failed) == (1, 4, 1)


async def test_a_row_that_is_taken_at_a_later_attempt_is_sent(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert()
    memory_bus.refuse("orders.Placed", Refusal("not yet"))
    projector = OutboxProjector(
        sessions, memory_bus, rows.tenant, retries=Retries(maximum=1000, initial_seconds=1e-3, longest_seconds=1e-3)
    )

    async with _running(projector):
        await eventually(lambda: _tried(rows))
        memory_bus.accept("orders.Placed")
        await eventually(lambda: _all_are(rows, "SENT"))

    [row] = await rows.all()
    assert row.retry_cnt >= 1
    assert row.last_error is None


async def _tried(rows: Rows) -> bool:
    return any(row.retry_cnt > 0 for row in await rows.all())


async def test_what_can_never_succeed_is_not_tried_again(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert()
    memory_bus.refuse("orders.Placed", Refusal("too large", permanent=True))

    await OutboxProjector(sessions, memory_bus, rows.tenant).drain()

    [row] = await rows.all()
    assert (row.status, row.retry_cnt, row.last_error) == ("ERR", 1, "too large")


async def test_a_row_that_cannot_be_read_does_not_stop_the_others(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    first = await rows.insert()
    await rows.insert(headers=["no", "object"])
    last = await rows.insert()

    await OutboxProjector(sessions, memory_bus, rows.tenant).drain()

    assert _ids(memory_bus) == [first, last]
    assert await rows.statuses() == ["SENT", "ERR", "SENT"]
    assert (await rows.all())[1].last_error == "the row cannot be read: headers is not a JSON object"


async def test_a_batch_of_which_nothing_can_be_read(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert(type="")

    await OutboxProjector(sessions, memory_bus, rows.tenant).drain()

    assert memory_bus.published == []
    assert await rows.statuses() == ["ERR"]


async def test_a_reason_that_postgres_cannot_hold_does_not_stop_the_others(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert(type="orders.Refused")
    await rows.insert()
    memory_bus.refuse("orders.Refused", Refusal("a \0 and a \ud800", permanent=True))

    await OutboxProjector(sessions, memory_bus, rows.tenant).drain()

    assert [(row.status, row.last_error) for row in await rows.all()] == [("ERR", "a ? and a ?"), ("SENT", None)]


async def test_an_outage_is_nobodys_retry(sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus) -> None:
    inserted = await rows.insert_many(10)
    memory_bus.go_down("maintenance")
    watching = Watching()

    async with _running(OutboxProjector(sessions, memory_bus, rows.tenant, observer=watching)):
        await eventually(lambda: _as_many(watching.broker_failures, 7))  # more than would make a row ERR
        assert {(row.status, row.retry_cnt, row.last_error) for row in await rows.all()} == {("NEW", 0, None)}
        memory_bus.come_back()
        await eventually(lambda: _all_are(rows, "SENT"))

    assert _ids(memory_bus) == inserted
    assert {row.retry_cnt for row in await rows.all()} == {0}


async def _as_many(things: Sequence[object], count: int) -> bool:
    return len(things) >= count


async def test_what_the_bus_acknowledged_before_it_went_away_is_not_published_again(
    sessions: Sessions, rows: Rows
) -> None:
    inserted = await rows.insert_many(5)
    bus, watching = HalfWayBus(stores=2), Watching()

    async with _running(OutboxProjector(sessions, bus, rows.tenant, observer=watching)):
        await eventually(lambda: _as_many(watching.broker_failures, 1))
        bus.stores = 5
        await eventually(lambda: _all_are(rows, "SENT"))

    assert _ids(bus) == inserted
    assert {row.retry_cnt for row in await rows.all()} == {0}


async def test_two_projectors_share_the_lanes_and_publish_everything_once(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    watchings = Watching(), Watching()
    one, other = (
        OutboxProjector(sessions, memory_bus, rows.tenant, 20, name=name, lanes=2, observer=watching, polling=EAGER)
        for name, watching in zip("ab", watchings, strict=True)
    )

    async with _running(one), _running(other):
        await eventually(lambda: _owners(sessions, rows.tenant, {"a", "b"}))
        inserted = await rows.insert_many(600, aggregates=50)
        await eventually(lambda: _all_are(rows, "SENT"))

    assert sorted(_ids(memory_bus)) == sorted(inserted)
    assert all(watching.sent for watching in watchings)
    assert sum(watching.sent for watching in watchings) == 600
    assert _is_in_order(memory_bus, inserted)


def _is_in_order(bus: InMemoryMessageBus, inserted: Sequence[UUID]) -> bool:
    """Whether the events of each aggregate came in the order of insertion."""
    place = {event_id: number for number, event_id in enumerate(inserted)}
    places: dict[str, list[int]] = {}
    for event in bus.published:
        places.setdefault(event.aggregate_id, []).append(place[event.id])
    return all(of_one == sorted(of_one) for of_one in places.values())


async def _owners(sessions: Sessions, tenant: str, names: set[str]) -> bool:
    owned = text("SELECT owner FROM outbox_lane WHERE tenant_id = :tenant")
    async with sessions() as session:
        return set((await session.execute(owned, {"tenant": tenant})).scalars()) == names


async def test_of_two_projectors_with_one_lane_the_second_stands_by(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    idle = InMemoryMessageBus()
    first = OutboxProjector(sessions, memory_bus, rows.tenant, name="first")
    second = OutboxProjector(sessions, idle, rows.tenant, name="second")

    running_first = asyncio.create_task(first.run_forever())
    await eventually(lambda: _owners(sessions, rows.tenant, {"first"}))
    async with _running(second):
        await rows.insert_many(4)
        await eventually(lambda: _all_are(rows, "SENT"))
        assert idle.published == []
        first.stop()
        await running_first
        await rows.insert_many(4)
        await eventually(lambda: _all_are(rows, "SENT"))

    assert (len(memory_bus.published), len(idle.published)) == (4, 4)


async def test_a_lane_that_one_projector_holds_is_not_waited_for_by_another(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(4)
    gated = GatedBus()
    holding = asyncio.create_task(OutboxProjector(sessions, gated, rows.tenant, name="a").drain())
    await gated.called.wait()

    await OutboxProjector(sessions, memory_bus, rows.tenant, name="b").drain()

    assert memory_bus.published == []
    gated.gate.set()
    await holding
    assert _ids(gated) == inserted


async def test_a_drain_delivers_however_many_lanes_there_were_before(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await OutboxProjector(sessions, memory_bus, rows.tenant, lanes=4).drain()
    inserted = await rows.insert_many(100, aggregates=20)

    await OutboxProjector(sessions, memory_bus, rows.tenant, lanes=1).drain()

    assert sorted(_ids(memory_bus)) == sorted(inserted)


async def test_the_number_of_lanes_changes_while_rows_are_delivered(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(300, aggregates=30)
    old = OutboxProjector(sessions, memory_bus, rows.tenant, 10, name="old", lanes=2, polling=EAGER)
    new = OutboxProjector(sessions, memory_bus, rows.tenant, 10, name="new", lanes=5, polling=EAGER)

    async with _running(old):
        await eventually(lambda: _as_many(memory_bus.published, 1))
        async with _running(new):
            inserted += await rows.insert_many(300, aggregates=30)
            await eventually(lambda: _all_are(rows, "SENT"))
            await eventually(lambda: _lanes(sessions, rows.tenant, 5))
            inserted += await rows.insert_many(30, aggregates=30)
            await eventually(lambda: _all_are(rows, "SENT"))

    assert sorted(_ids(memory_bus)) == sorted(inserted)
    assert _is_in_order(memory_bus, inserted)


async def _lanes(sessions: Sessions, tenant: str, lanes: int) -> bool:
    layout = text("SELECT lanes FROM outbox_layout WHERE tenant_id = :tenant")
    async with sessions() as session:
        return bool((await session.execute(layout, {"tenant": tenant})).scalar() == lanes)


async def test_stop_finishes_the_batch_in_hand_and_begins_no_other(sessions: Sessions, rows: Rows) -> None:
    inserted = await rows.insert_many(6)
    bus = GatedBus()
    projector = OutboxProjector(sessions, bus, rows.tenant, 2)
    running = asyncio.create_task(projector.run_forever())
    await bus.called.wait()

    projector.stop()
    bus.gate.set()
    await running

    assert _ids(bus) == inserted[:2]
    assert await rows.statuses() == ["SENT"] * 2 + ["NEW"] * 4
    assert await _is_given_back(sessions, rows.tenant)


async def _is_given_back(sessions: Sessions, tenant: str) -> bool:
    """Whether the next projector need not wait: nobody owns a lane, nobody is a member, nothing is in the air."""
    left = text(
        "SELECT (SELECT count(*) FROM outbox_lane WHERE tenant_id = :tenant AND owner IS NOT NULL)"
        " + (SELECT count(*) FROM outbox_member WHERE tenant_id = :tenant)"
        " + (SELECT count(*) FROM outbox_flight WHERE tenant_id = :tenant)"
    )
    async with sessions() as session:
        return bool((await session.execute(left, {"tenant": tenant})).scalar_one() == 0)


async def test_a_batch_that_is_cut_off_is_left_to_the_next_projector(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(3)
    bus = GatedBus()
    cut_off = asyncio.create_task(OutboxProjector(sessions, bus, rows.tenant, name="we").drain())
    await bus.called.wait()
    cut_off.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut_off
    assert {(row.status, row.retry_cnt) for row in await rows.all()} == {("NEW", 0)}

    await OutboxProjector(sessions, memory_bus, rows.tenant, name="we").drain()

    assert _ids(memory_bus) == inserted


async def test_stop_ends_the_rest_of_an_idle_projector(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert()
    hours = Polling(fastest_seconds=7200, slowest_seconds=7200)

    async with _running(OutboxProjector(sessions, memory_bus, rows.tenant, polling=hours)):
        await eventually(lambda: _all_are(rows, "SENT"))


async def test_a_defect_of_a_bus_ends_the_projector_and_leaves_the_rows_as_they_were(
    sessions: Sessions, rows: Rows
) -> None:
    class DefectBus(InMemoryMessageBus):
        async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
            raise KeyError("a defect")

    await rows.insert()

    with pytest.raises(KeyError):
        await OutboxProjector(sessions, DefectBus(), rows.tenant).run_forever()

    assert [(row.status, row.retry_cnt) for row in await rows.all()] == [("NEW", 0)]


@pytest.fixture
async def named_connections(database_url: str) -> AsyncIterator[tuple[Sessions, str]]:
    """Sessions whose connections can be found and ended by the name of their application."""
    name = unique("projector")
    engine = create_async_engine(
        parse_database_url(database_url), connect_args={"server_settings": {"application_name": name}}
    )
    yield async_sessionmaker(engine), name
    await engine.dispose()


async def _end_connections(engine: AsyncEngine, name: str) -> int:
    async with engine.begin() as connection:
        ended = await connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name"),
            {"name": name},
        )
        return len(ended.all())


class Reachable:
    """Sessions while the database can be reached."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.it_is = True

    def __call__(self) -> AsyncSession:
        if not self.it_is:
            raise ConnectionRefusedError("refused")
        return self._sessions()


async def test_connections_that_the_server_ended_are_replaced_unnoticed(
    named_connections: tuple[Sessions, str], engine: AsyncEngine, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    sessions, name = named_connections
    async with _running(OutboxProjector(sessions, memory_bus, rows.tenant)):
        for _ in range(2):
            await rows.insert()
            await eventually(lambda: _all_are(rows, "SENT"))
            assert await _end_connections(engine, name) >= 1

    assert len(memory_bus.published) == 2


async def test_a_database_that_goes_away_between_two_batches_and_comes_back(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    reachable, watching = Reachable(sessions), Watching()
    async with _running(OutboxProjector(reachable, memory_bus, rows.tenant, observer=watching)):
        await rows.insert()
        await eventually(lambda: _all_are(rows, "SENT"))
        reachable.it_is = False
        await eventually(lambda: _as_many(watching.database_failures, 1))
        reachable.it_is = True
        await rows.insert()
        await eventually(lambda: _all_are(rows, "SENT"))

    assert watching.database_failures[0].reason == "DatabaseUnreachable"
    assert len(memory_bus.published) == 2


async def test_a_database_that_goes_away_while_a_batch_is_published(sessions: Sessions, rows: Rows) -> None:
    """The events are on the bus, but the rows could not be marked: they are published again, with the same ids."""
    inserted = await rows.insert_many(3)
    reachable, bus, watching = Reachable(sessions), GatedBus(), Watching()
    async with _running(OutboxProjector(reachable, bus, rows.tenant, observer=watching)):
        await bus.called.wait()
        reachable.it_is = False
        bus.gate.set()
        await eventually(lambda: _as_many(watching.database_failures, 1))
        reachable.it_is = True
        await eventually(lambda: _all_are(rows, "SENT"))

    assert {failure.reason for failure in watching.database_failures} == {"DatabaseUnreachable"}
    assert _ids(bus) == inserted * 2
    assert {row.retry_cnt for row in await rows.all()} == {0}


async def test_a_table_that_is_missing_is_an_outage(
    empty_engine: AsyncEngine, tenant: str, memory_bus: InMemoryMessageBus
) -> None:
    with pytest.raises(DatabaseUnavailable, match="run `bento-outbox schema apply`") as raised:
        await OutboxProjector(async_sessionmaker(empty_engine), memory_bus, tenant).drain()

    assert raised.value.reason == "OutboxTableMissing"


async def test_a_role_without_rights_is_an_outage(
    engine: AsyncEngine, database_url: str, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    role = unique("role")
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'secret'"))
    url: Any = parse_database_url(database_url).set(username=role, password="secret")
    without_rights = create_async_engine(url)
    try:
        with pytest.raises(DatabaseUnavailable, match="may not read and update") as raised:
            await OutboxProjector(async_sessionmaker(without_rights), memory_bus, rows.tenant).drain()
        assert raised.value.reason == "DatabasePermissionDenied"
    finally:
        await without_rights.dispose()
        async with engine.begin() as connection:
            await connection.execute(text(f'DROP ROLE "{role}"'))
