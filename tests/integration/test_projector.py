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
from outbox_projector.database import DatabaseUnavailable
from outbox_projector.loop import Unobserved
from tests.conftest import unique
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]
SWIFT = Retries(maximum=5, initial_seconds=1e-3, longest_seconds=1e-3)


@pytest.fixture(autouse=True)
def _short_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of an outage are bounded by seconds; what happens between them is the same with shorter ones."""
    monkeypatch.setattr("outbox_projector.loop.OUTAGE", SWIFT)


class Watching(Unobserved):
    """Keeps what the projector tells its observer."""

    def __init__(self) -> None:
        self.sent = self.retried = self.failed = 0
        self.database_failures: list[DatabaseUnavailable] = []
        self.broker_failures: list[BusUnavailable] = []

    def database_failed(self, error: DatabaseUnavailable) -> None:
        self.database_failures.append(error)

    def broker_failed(self, error: BusUnavailable) -> None:
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

    assert await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch() == 1

    assert {event.tenant_id for event in memory_bus.published} == {rows.tenant}
    assert await others.statuses() == ["NEW"]


async def test_a_batch_is_no_larger_than_told(sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus) -> None:
    await rows.insert_many(5)
    projector = OutboxProjector(sessions, memory_bus, rows.tenant, 2)

    assert [await projector.deliver_batch() for _ in range(4)] == [2, 2, 1, 0]


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

    await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch()

    [row] = await rows.all()
    assert (row.status, row.retry_cnt, row.last_error) == ("ERR", 1, "too large")


async def test_a_row_that_cannot_be_read_does_not_stop_the_others(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    first = await rows.insert()
    await rows.insert(headers=["no", "object"])
    last = await rows.insert()

    assert await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch() == 3

    assert _ids(memory_bus) == [first, last]
    assert await rows.statuses() == ["SENT", "ERR", "SENT"]
    assert (await rows.all())[1].last_error == "the row cannot be read: headers is not a JSON object"


async def test_a_batch_of_which_nothing_can_be_read(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert(type="")

    await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch()

    assert memory_bus.published == []
    assert await rows.statuses() == ["ERR"]


async def test_a_reason_that_postgres_cannot_hold_does_not_stop_the_others(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert(type="orders.Refused")
    await rows.insert()
    memory_bus.refuse("orders.Refused", Refusal("a \0 and a \ud800", permanent=True))

    await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch()

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


async def test_what_the_bus_acknowledged_before_it_went_away_is_sent(sessions: Sessions, rows: Rows) -> None:
    inserted = await rows.insert_many(5)
    bus = HalfWayBus(stores=2)
    projector = OutboxProjector(sessions, bus, rows.tenant)

    with pytest.raises(BusUnavailable):
        await projector.deliver_batch()

    assert [(row.status, row.retry_cnt) for row in await rows.all()] == [("SENT", 0)] * 2 + [("NEW", 0)] * 3
    bus.stores = 5
    await projector.deliver_batch()
    assert _ids(bus) == inserted


async def test_two_projectors_side_by_side_deliver_everything_once(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(600, aggregates=50)
    watchings = Watching(), Watching()
    one, other = (OutboxProjector(sessions, memory_bus, rows.tenant, 20, observer=watching) for watching in watchings)

    async with _running(one), _running(other):
        await eventually(lambda: _all_are(rows, "SENT"))

    assert sorted(_ids(memory_bus)) == sorted(inserted)
    assert sum(watching.sent for watching in watchings) == 600


async def test_rows_that_one_projector_holds_are_not_waited_for_by_another(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(4)
    gated = GatedBus()
    holding = asyncio.create_task(OutboxProjector(sessions, gated, rows.tenant, 2).deliver_batch())
    await gated.called.wait()

    assert await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch() == 2

    gated.gate.set()
    await holding
    assert (_ids(gated), _ids(memory_bus)) == (inserted[:2], inserted[2:])


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


async def test_a_batch_that_is_cut_off_is_left_to_the_next_projector(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    inserted = await rows.insert_many(3)
    bus = GatedBus()
    cut_off = asyncio.create_task(OutboxProjector(sessions, bus, rows.tenant).deliver_batch())
    await bus.called.wait()
    cut_off.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cut_off
    assert {(row.status, row.retry_cnt) for row in await rows.all()} == {("NEW", 0)}

    await OutboxProjector(sessions, memory_bus, rows.tenant).deliver_batch()

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


async def test_a_database_that_goes_away_between_two_batches_and_comes_back(
    named_connections: tuple[Sessions, str], engine: AsyncEngine, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    sessions, name = named_connections
    watching = Watching()
    async with _running(OutboxProjector(sessions, memory_bus, rows.tenant, observer=watching)):
        await rows.insert()
        await eventually(lambda: _all_are(rows, "SENT"))
        assert await _end_connections(engine, name) == 1
        await eventually(lambda: _as_many(watching.database_failures, 1))
        await rows.insert()
        await eventually(lambda: _all_are(rows, "SENT"))

    assert watching.database_failures[0].reason == "DatabaseUnreachable"
    assert len(memory_bus.published) == 2


async def test_a_database_that_goes_away_while_a_batch_is_published(
    named_connections: tuple[Sessions, str], engine: AsyncEngine, rows: Rows
) -> None:
    """The events are on the bus, but the rows could not be marked: they are published again, with the same ids."""
    sessions, name = named_connections
    inserted = await rows.insert_many(3)
    bus, watching = GatedBus(), Watching()
    async with _running(OutboxProjector(sessions, bus, rows.tenant, observer=watching)):
        await bus.called.wait()
        assert await _end_connections(engine, name) == 1
        bus.gate.set()
        await eventually(lambda: _all_are(rows, "SENT"))

    assert [failure.reason for failure in watching.database_failures] == ["DatabaseUnreachable"]
    assert _ids(bus) == inserted * 2
    assert {row.retry_cnt for row in await rows.all()} == {0}


async def test_a_table_that_is_missing_is_an_outage(
    empty_engine: AsyncEngine, tenant: str, memory_bus: InMemoryMessageBus
) -> None:
    with pytest.raises(DatabaseUnavailable, match="run `bento-outbox schema apply`") as raised:
        await OutboxProjector(async_sessionmaker(empty_engine), memory_bus, tenant).deliver_batch()

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
            await OutboxProjector(async_sessionmaker(without_rights), memory_bus, rows.tenant).deliver_batch()
        assert raised.value.reason == "DatabasePermissionDenied"
    finally:
        await without_rights.dispose()
        async with engine.begin() as connection:
            await connection.execute(text(f'DROP ROLE "{role}"'))
