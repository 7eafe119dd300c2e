"""What a lane's owner claims of the real table: which rows, in which order, and as what."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import randbytes
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Refusal
from bento_outbox.schema import apply_schema
from bento_outbox.table import outbox_table
from outbox_projector import Retries
from outbox_projector.flights import Lease, Turn, Turned
from outbox_projector.lane_store import FLIGHT_BYTES, PostgresLaneStore
from outbox_projector.low_water import BOTTOM, LOOK_SECONDS
from outbox_projector.sessions import borrowed
from tests.conftest import unique
from tests.support.clocks import Clock
from tests.support.envelopes import envelope
from tests.support.lanes import CLAIM, TOPIC, acquired, claimed, topic_of
from tests.support.rows import Rows, write
from tests.support.watched import Planned, steps_of

Sessions = async_sessionmaker[AsyncSession]
NewStore = Callable[..., PostgresLaneStore]


async def test_nothing_to_claim(store: PostgresLaneStore, lease: Lease) -> None:
    assert await store.turn(lease, CLAIM) == Turned()


async def test_rows_are_claimed_in_the_order_of_insertion(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    """Whatever created_at says: clocks of writers may differ."""
    later = datetime.now(UTC) + timedelta(hours=1)
    inserted = [await rows.insert(created_at=later - timedelta(minutes=number)) for number in range(5)]

    assert (await claimed(store, lease)).ids == inserted


async def test_only_the_tenants_own_rows_are_claimed(
    store: PostgresLaneStore, lease: Lease, sessions: Sessions, rows: Rows
) -> None:
    await Rows(sessions, unique("tenant")).insert()
    own = await rows.insert()

    assert (await claimed(store, lease)).ids == [own]


@pytest.mark.parametrize("status", ["SENT", "ERR", "SOMETHING"])
async def test_only_new_rows_are_claimed(store: PostgresLaneStore, lease: Lease, rows: Rows, status: str) -> None:
    await rows.insert(status=status)

    assert await store.turn(lease, CLAIM) == Turned()


async def test_a_claim_waits_for_nobody_who_inserts(
    store: PostgresLaneStore, lease: Lease, sessions: Sessions, tenant: str
) -> None:
    async with sessions() as writer:
        await write(writer, envelope(tenant_id=tenant))

        assert await store.turn(lease, CLAIM) == Turned()


async def test_rows_are_claimed_in_the_order_of_insertion_with_rising_ids(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    inserted = await rows.insert_many(5)

    first = await claimed(store, lease, replace(CLAIM, limit=3))
    second = await claimed(store, lease)

    assert (first.ids, second.ids) == (inserted[:3], inserted[3:])
    assert (first.topic, first.first_sequence, second.first_sequence) == (TOPIC, 1, 4)
    assert not first.recovered


async def test_a_row_in_a_flight_is_not_claimed_again(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    await rows.insert_many(3)
    await claimed(store, lease)

    assert await store.turn(lease, CLAIM) == Turned()


async def test_ids_begin_above_what_the_broker_has(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    """Also when the table is behind, as after a restored backup."""
    await rows.insert_many(2)
    flight = await claimed(store, lease, Turn(limit=1, floors={TOPIC: 501}))
    behind = await claimed(store, lease, Turn(limit=1, floors={TOPIC: 3}))

    assert (flight.first_sequence, behind.first_sequence) == (501, 502)


async def test_nothing_is_claimed_for_a_topic_without_a_producer(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    [event_id] = await rows.insert_many(1)

    assert await store.turn(lease, Turn(limit=10)) == Turned(topic=TOPIC)
    assert (await claimed(store, lease)).ids == [event_id]


async def test_a_flight_has_one_topic_and_each_topic_its_own_ids(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    usual, other = await rows.insert(), await rows.insert(aggregate_id="order-2", topic="another")
    also_usual = await rows.insert()
    floors = Turn(limit=10, floors={TOPIC: 1, "another": 7})

    flights = [await claimed(store, lease, floors) for _ in range(2)]

    assert [(flight.topic, flight.ids) for flight in flights] == [(TOPIC, [usual, also_usual]), ("another", [other])]
    assert [flight.first_sequence for flight in flights] == [1, 7]


@pytest.mark.parametrize("ordered", [True, False])
async def test_an_event_waits_for_an_earlier_one_of_its_key_that_goes_elsewhere(
    new_store: NewStore, lease: Lease, rows: Rows, ordered: bool
) -> None:
    """That one may be refused, and then it is to hold back the later ones."""
    store = new_store(ordered=ordered)
    first, elsewhere, last = await rows.insert(), await rows.insert(topic="another"), await rows.insert()
    others = await rows.insert(aggregate_id="order-2")
    floors = Turn(limit=10, floors={TOPIC: 1, "another": 1})

    flights = [turned.flight.ids for _ in range(4) if (turned := await store.turn(lease, floors)).flight]

    in_order, at_once = [[first, others], [elsewhere], [last]], [[first, last, others], [elsewhere]]
    assert flights == (in_order if ordered else at_once)


async def test_a_flight_has_an_upper_bound_of_bytes_and_a_larger_row_flies_alone(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    half, large = {"note": "x" * (FLIGHT_BYTES // 2 - 2000)}, {"note": "x" * (FLIGHT_BYTES + 1)}
    sizes = [half, half, half, large, {}]
    inserted = [await rows.insert(payload=payload) for payload in sizes]

    flights = [(await claimed(store, lease)).ids for _ in range(4)]

    assert flights == [inserted[:2], inserted[2:3], inserted[3:4], inserted[4:]]


def _counted(store: PostgresLaneStore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each claim of it reads from now on."""
    read: list[int] = []
    candidates = store._sql["candidates"]
    rows_of = candidates.rows

    async def counted(connection: asyncpg.Connection, values: Mapping[str, object]) -> list[asyncpg.Record]:
        found = await rows_of(connection, values)
        read.append(len(found))
        return found

    monkeypatch.setattr(candidates, "rows", counted)
    return read


@pytest.mark.parametrize("where", ["payload", "headers"])
async def test_of_rows_that_are_stored_compressed_fewer_are_read_than_seem_to_fit(
    store: PostgresLaneStore,
    lease: Lease,
    rows: Rows,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """What a page of the table holds may be a hundred pages of JSON."""
    for _ in range(30):
        await rows.insert(**{where: {"note": "x" * 100_000}})
    stored = text(f"SELECT max(pg_column_size({where})) FROM outbox WHERE tenant_id = :tenant")
    async with sessions() as session:
        size = (await session.execute(stored, {"tenant": rows.tenant})).scalar_one()
    read = _counted(store, monkeypatch)
    monkeypatch.setattr("outbox_projector.lane_store.FLIGHT_BYTES", 20 * size)

    await store.turn(lease, replace(CLAIM, limit=1000))

    assert read == [4]


async def test_of_large_rows_no_more_are_read_than_fit_into_a_flight(
    store: PostgresLaneStore, lease: Lease, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand of them would not fit into a pod's memory."""
    inserted = [await rows.insert(payload={"note": randbytes(FLIGHT_BYTES // 20).hex()}) for _ in range(25)]
    read = _counted(store, monkeypatch)
    turned = [await store.turn(lease, replace(CLAIM, limit=1000)) for _ in range(3)]

    assert [flight.ids for turn in turned if (flight := turn.flight)] == [
        inserted[:9],
        inserted[9:18],
        inserted[18:],
    ]
    assert (read, [turn.more for turn in turned]) == ([9, 9, 7], [True, True, False])


async def test_only_available_rows_are_claimed(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await rows.insert(available_at=soon)
    now = await rows.insert()

    assert (await claimed(store, lease)).ids == [now]


# the events


async def test_an_envelope_comes_back_as_it_was_written(
    store: PostgresLaneStore, lease: Lease, sessions: Sessions, tenant: str
) -> None:
    written = envelope(
        tenant_id=tenant,
        schema_id="schemas/placed",
        schema_ver=2,
        payload='{"name": "Žofie 🎉", "total": 12.10, "big": 123456789012345678901234567890}'.encode(),
        headers={"traceparent": "00-1-2-01"},
        ordering_key="customer-9",
        topic="persistent://public/default/other",
    )
    async with sessions.begin() as session:
        await write(session, written)

    [read] = (await claimed(store, lease, Turn(limit=1, floors={"persistent://public/default/other": 1}))).events

    assert read.created_at is not None
    for name in (
        "id",
        "tenant_id",
        "aggregate_id",
        "type",
        "schema_id",
        "schema_ver",
        "headers",
        "ordering_key",
        "topic",
    ):
        assert getattr(read, name) == getattr(written, name), name
    # jsonb keeps values exactly, but orders keys in its own way.
    assert json.loads(read.payload) == json.loads(written.payload)
    assert b"12.10" in read.payload


@pytest.mark.parametrize("year", ["12000-01-01", "0044-03-15 BC"])
async def test_a_time_of_creation_that_is_beyond_all_calendars_is_none(
    store: PostgresLaneStore, sessions: Sessions, tenant: str, lease: Lease, rows: Rows, year: str
) -> None:
    await rows.insert(sql={"created_at": f"'{year}'"})

    [event] = (await claimed(store, lease)).events
    [again] = (await store.open_flights(await acquired(sessions, tenant)))[0].events

    assert (event.created_at, again.created_at) == (None, None)


async def test_a_row_of_the_bare_columns_has_everything_it_needs(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    inserted = await rows.insert(payload=[1, "two", None])

    [read] = (await claimed(store, lease)).events

    assert (read.id, read.headers, read.ordering_key, read.topic) == (inserted, {}, None, None)
    assert json.loads(read.payload) == [1, "two", None]


async def test_headers_that_are_no_text_are_carried_as_json(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    await rows.insert(headers={"attempt": 3, "tags": ["a", "b"], "name": "text", "none": None})

    [read] = (await claimed(store, lease)).events

    assert read.headers == {"attempt": "3", "tags": '["a", "b"]', "name": "text", "none": "null"}


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("columns", "sql", "complaint"),
    [
        ({"headers": ["no", "object"]}, {}, "headers is not a JSON object"),
        ({"headers": "text"}, {}, "headers is not a JSON object"),
        ({"headers": None}, {}, "headers is not a JSON object"),
        ({}, {"headers": f"'{{\"deep\": {_nested(5000)}}}'"}, "recursion"),
        ({}, {"headers": f"'{{\"long\": {'9' * 5000}}}'"}, "integer string conversion"),
        ({"type": ""}, {}, "type is empty"),
        ({"aggregate_id": ""}, {}, "aggregate_id is empty"),
        # An entry of an index would have no room for it, and what is known of a topic is found by one.
        ({"topic": randbytes(2000).hex()}, {}, "topic or type has more than 500 characters"),
        ({"type": randbytes(2000).hex()}, {}, "topic or type has more than 500 characters"),
    ],
)
async def test_a_row_that_cannot_be_read_becomes_err_and_the_others_fly(
    store: PostgresLaneStore,
    lease: Lease,
    sessions: Sessions,
    rows: Rows,
    columns: dict[str, Any],
    sql: dict[str, str],
    complaint: str,
) -> None:
    before = await rows.insert()
    bad = await rows.insert(sql=sql, **columns)
    after = await rows.insert()

    turned = await store.turn(lease, CLAIM)

    assert (turned.failed, turned.flight and turned.flight.ids) == (1, [before, after])
    assert await rows.statuses() == ["NEW", "ERR", "NEW"]
    reason = await _last_error(sessions, bad)
    assert "the row cannot be read: " in reason
    assert complaint in reason


async def _last_error(sessions: Sessions, event_id: UUID) -> str:
    """Nothing else of the row: its headers may be more than any reader takes."""
    async with sessions() as session:
        found = await session.execute(text("SELECT last_error FROM outbox WHERE id = :id"), {"id": event_id})
        reason: str = found.scalar_one()
    return reason


async def test_rows_of_an_older_table_may_hold_null(empty_engine: AsyncEngine, tenant: str) -> None:
    """Made by another tool from the bare columns, without NOT NULL and defaults."""
    sessions = async_sessionmaker(empty_engine)
    async with empty_engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE TABLE outbox (id uuid PRIMARY KEY, tenant_id text, aggregate_id text, type text,"
                " schema_id text, schema_ver int, payload jsonb, status text, retry_cnt int, created_at timestamptz)"
            )
        )
        await connection.execute(
            text(
                "INSERT INTO outbox (id, tenant_id, aggregate_id, type, payload, status) VALUES"
                " (:readable, :tenant, 'order-1', 'orders.Placed', '{}', 'NEW'),"
                " (:hopeless, :tenant, 'order-1', 'orders.Placed', NULL, 'NEW')"
            ),
            {"readable": (readable := uuid4()), "hopeless": (hopeless := uuid4()), "tenant": tenant},
        )
    await apply_schema(empty_engine)
    store = PostgresLaneStore(borrowed(sessions), outbox_table, tenant_id=tenant, retries=Retries(), topic_of=topic_of)
    lease = await acquired(sessions, tenant)

    flight = await claimed(store, lease)
    assert (flight.ids, flight.retry_counts) == ([readable], {readable: 0})
    await store.turn(lease, Turn(settled=flight, refused={readable: Refusal("not now")}))

    found = {row.id: (row.status, row.retry_cnt, row.last_error) for row in await Rows(sessions, tenant).all()}
    assert found == {
        readable: ("NEW", 1, "not now"),
        hopeless: ("ERR", 1, "the row cannot be read: payload is empty"),
    }


async def test_a_row_without_a_key_is_in_one_of_several_lanes(empty_engine: AsyncEngine, tenant: str) -> None:
    """Or it would wait for ever, and nobody would be told."""
    sessions = async_sessionmaker(empty_engine)
    await apply_schema(empty_engine)
    async with empty_engine.begin() as connection:
        await connection.execute(text("ALTER TABLE outbox ALTER aggregate_id DROP NOT NULL"))
    rows = Rows(sessions, tenant)
    await rows.insert(aggregate_id=None)
    store = PostgresLaneStore(borrowed(sessions), outbox_table, tenant_id=tenant, retries=Retries(), topic_of=topic_of)

    turned = [await store.turn(await acquired(sessions, tenant, lane=lane, lanes=2), CLAIM) for lane in range(2)]

    assert sorted(turn.failed for turn in turned) == [0, 1]
    assert [row.last_error for row in await rows.all()] == ["the row cannot be read: aggregate_id is empty"]


async def test_the_core_table_and_the_statements_mean_the_same_columns(
    store: PostgresLaneStore, lease: Lease, sessions: Sessions, tenant: str
) -> None:
    row = {"tenant_id": tenant, "aggregate_id": "order-1", "type": "orders.Placed", "payload": {"n": 1}}
    async with sessions.begin() as session:
        await session.execute(insert(outbox_table).values(row))

    assert [event.payload for event in (await claimed(store, lease)).events] == [b'{"n": 1}']


# where it begins


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def looking(new_store: NewStore, clock: Clock) -> PostgresLaneStore:
    """A store that looks for the low-water mark whenever its clock has gone on by a second."""
    return new_store(clock=clock)


async def _carried(store: PostgresLaneStore, lease: Lease, flights: int, clock: Clock) -> list[UUID]:
    """Claims and settles so many flights of one row, a second each; returns the rows."""
    ids = []
    for _ in range(flights):
        clock.now += LOOK_SECONDS
        flight = await claimed(store, lease, replace(CLAIM, limit=1))
        ids += flight.ids
        await store.turn(lease, Turn(settled=flight))
    return ids


async def test_it_begins_above_what_is_settled(
    looking: PostgresLaneStore, lease: Lease, clock: Clock, rows: Rows
) -> None:
    inserted = await rows.insert_many(6)
    assert await _carried(looking, lease, 6, clock) == inserted

    assert looking._low_water.mark == (await rows.all())[3].seq  # behind by two looks


async def test_what_commits_late_comes_before_the_later_ones_of_its_key_all_the_same(
    looking: PostgresLaneStore, lease: Lease, clock: Clock, sessions: Sessions, tenant: str, rows: Rows
) -> None:
    late, later = (envelope(tenant_id=tenant, aggregate_id="order-7") for _ in range(2))
    async with sessions.begin() as session:
        await write(session, late)
        inserted = await rows.insert_many(6)
        assert await _carried(looking, lease, 5, clock) == inserted[:5]
    async with sessions.begin() as session:
        await write(session, later)

    # No look comes between the two commits and the claim.
    assert (await claimed(looking, lease, CLAIM)).ids == [late.id, inserted[5], later.id]


async def test_a_row_that_is_requeued_below_the_mark_is_found(
    looking: PostgresLaneStore, lease: Lease, clock: Clock, rows: Rows
) -> None:
    failed = await rows.insert(status="ERR")
    inserted = await rows.insert_many(6)
    assert await _carried(looking, lease, 5, clock) == inserted[:5]
    await rows.change("status = CASE status WHEN 'ERR' THEN 'NEW' ELSE status END")

    assert await _carried(looking, lease, 2, clock) == [failed, inserted[5]]


async def test_a_row_that_waits_keeps_the_mark_below_it(
    looking: PostgresLaneStore, lease: Lease, clock: Clock, rows: Rows
) -> None:
    held = await rows.insert(sql={"available_at": "now() + interval '1 hour'"})
    await rows.insert_many(6)
    await _carried(looking, lease, 5, clock)

    [first] = [row.seq for row in await rows.all() if row.id == held]
    assert looking._low_water.mark == first


async def test_where_failed_rows_hold_back_later_ones_it_begins_at_the_bottom(
    new_store: NewStore, lease: Lease, clock: Clock, rows: Rows
) -> None:
    """One of them may be requeued, and has to come before what it held back."""
    store = new_store(clock=clock, hold_aggregates=True)
    await rows.insert_many(6)
    await _carried(store, lease, 5, clock)

    assert store._low_water.mark == BOTTOM


# cost


@pytest.mark.parametrize("options", [{}, {"hold_aggregates": True}, {"ordered": False}], ids=str)
@pytest.mark.parametrize("lanes", [1, 4])
async def test_the_claim_of_a_deep_backlog_reads_the_index_in_order(
    sessions: Sessions, rows: Rows, tenant: str, options: dict[str, bool], lanes: int
) -> None:
    """No sort of the whole backlog for each flight."""
    await rows.insert_many(5000, aggregates=100)
    async with sessions.begin() as session:
        await session.execute(text("ANALYZE outbox"))
    planned = Planned(borrowed(sessions), "candidate AS MATERIALIZED")
    store = PostgresLaneStore(planned, outbox_table, tenant_id=tenant, retries=Retries(), topic_of=topic_of, **options)
    await store.turn(await acquired(sessions, tenant, lanes=lanes), Turn(limit=10))

    [candidates] = [step for step in steps_of(planned.plans[0]) if step.get("Subplan Name") == "CTE candidate"]
    reading = [step for step in steps_of(candidates) if step.get("Relation Name") == "outbox"]
    kinds = {step["Node Type"] for step in steps_of(candidates)}
    assert "Limit" in kinds
    assert not {"Sort", "Incremental Sort"} & kinds
    assert "outbox_tenant_status_seq" in {step.get("Index Name") for step in reading}
    assert not {"Sort", "Incremental Sort", "Seq Scan"} & {
        step["Node Type"] for step in [candidates["Plans"][0], *reading]
    }
