"""What the projector's statements do to the real table."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Refusal
from bento_outbox.schema import apply_schema, validate_schema
from bento_outbox.table import LONGEST_NAME, make_outbox_table, outbox_table
from outbox_projector import Retries
from outbox_projector.store import Claim, Store
from tests.conftest import unique
from tests.support.envelopes import envelope
from tests.support.rows import Rows, write

Sessions = async_sessionmaker[AsyncSession]
AT_ONCE = Retries(maximum=3, initial_seconds=1e-6, longest_seconds=1e-6)


@pytest.fixture
def store(tenant: str) -> Store:
    return Store(outbox_table, tenant)


@pytest.fixture
async def session(sessions: Sessions) -> AsyncIterator[AsyncSession]:
    """A session whose changes are undone unless the test commits them."""
    async with sessions() as session:
        yield session


def _ids(claim: Claim) -> list[UUID]:
    return [event.id for event in claim.envelopes]


# claim


async def test_nothing_to_claim(store: Store, session: AsyncSession) -> None:
    claim = await store.claim(session, 10)

    assert (len(claim), claim.envelopes, claim.unreadable) == (0, [], {})


async def test_rows_are_claimed_in_the_order_of_insertion(store: Store, session: AsyncSession, rows: Rows) -> None:
    """Whatever created_at says: clocks of writers may differ."""
    later = datetime.now(UTC) + timedelta(hours=1)
    inserted = [await rows.insert(created_at=later - timedelta(minutes=number)) for number in range(5)]

    assert _ids(await store.claim(session, 10)) == inserted


async def test_no_more_rows_are_claimed_than_asked_for(store: Store, session: AsyncSession, rows: Rows) -> None:
    inserted = await rows.insert_many(5)

    claim = await store.claim(session, 3)

    assert (len(claim), _ids(claim)) == (3, inserted[:3])


async def test_only_the_tenants_own_rows_are_claimed(
    store: Store, session: AsyncSession, sessions: Sessions, rows: Rows
) -> None:
    await Rows(sessions, unique("tenant")).insert()
    own = await rows.insert()

    assert _ids(await store.claim(session, 10)) == [own]


@pytest.mark.parametrize("status", ["SENT", "ERR", "SOMETHING"])
async def test_only_new_rows_are_claimed(store: Store, session: AsyncSession, rows: Rows, status: str) -> None:
    await rows.insert(status=status)

    assert len(await store.claim(session, 10)) == 0


async def test_a_row_that_is_not_available_yet_is_passed_over(store: Store, session: AsyncSession, rows: Rows) -> None:
    await rows.insert(sql={"available_at": "now() + interval '1 hour'"})
    available = await rows.insert(sql={"available_at": "now() - interval '1 hour'"})

    assert _ids(await store.claim(session, 10)) == [available]


async def test_rows_that_another_session_holds_are_passed_over(store: Store, sessions: Sessions, rows: Rows) -> None:
    inserted = await rows.insert_many(4)
    async with sessions() as one, sessions() as other:
        first = await store.claim(one, 2)
        second = await store.claim(other, 10)
        assert (_ids(first), _ids(second)) == (inserted[:2], inserted[2:])

        await one.rollback()
        await other.rollback()
        assert _ids(await store.claim(other, 10)) == inserted


async def test_a_claim_waits_for_nobody_who_inserts(store: Store, session: AsyncSession, sessions: Sessions) -> None:
    async with sessions() as writer:
        await write(writer, envelope(tenant_id=store._tenant_id))

        assert len(await store.claim(session, 10)) == 0


async def test_an_envelope_comes_back_as_it_was_written(store: Store, session: AsyncSession, tenant: str) -> None:
    written = envelope(
        tenant_id=tenant,
        schema_id="schemas/placed",
        schema_ver=2,
        payload='{"name": "Žofie 🎉", "total": 12.10, "big": 123456789012345678901234567890}'.encode(),
        headers={"traceparent": "00-1-2-01"},
        ordering_key="customer-9",
        topic="persistent://public/default/other",
    )
    await write(session, written)

    [read] = (await store.claim(session, 10)).envelopes

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


async def test_a_row_of_the_bare_columns_has_everything_it_needs(
    store: Store, session: AsyncSession, rows: Rows
) -> None:
    inserted = await rows.insert(payload=[1, "two", None])

    [read] = (await store.claim(session, 10)).envelopes

    assert (read.id, read.headers, read.ordering_key, read.topic) == (inserted, {}, None, None)
    assert json.loads(read.payload) == [1, "two", None]


async def test_headers_that_are_no_text_are_carried_as_json(store: Store, session: AsyncSession, rows: Rows) -> None:
    await rows.insert(headers={"attempt": 3, "tags": ["a", "b"], "name": "text", "none": None})

    [read] = (await store.claim(session, 10)).envelopes

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
    ],
)
async def test_a_row_that_cannot_be_read_does_not_hide_the_others(
    store: Store, session: AsyncSession, rows: Rows, columns: dict[str, Any], sql: dict[str, str], complaint: str
) -> None:
    before = await rows.insert()
    bad = await rows.insert(sql=sql, **columns)
    after = await rows.insert()

    claim = await store.claim(session, 10)

    assert (len(claim), _ids(claim)) == (3, [before, after])
    assert claim.unreadable.keys() == {bad}
    assert claim.unreadable[bad].permanent
    assert "the row cannot be read: " in claim.unreadable[bad].reason
    assert complaint in claim.unreadable[bad].reason


# settle


async def test_sent_rows_have_a_time_and_no_error(store: Store, session: AsyncSession, rows: Rows) -> None:
    sent = await rows.insert(last_error="was refused once", retry_cnt=1)
    waiting = await rows.insert()

    await store.mark_sent(session, [sent])
    await session.commit()

    first, second = await rows.all()
    assert (first.status, first.last_error, first.retry_cnt) == ("SENT", None, 1)
    assert first.sent_at >= first.created_at
    assert (second.id, second.status, second.sent_at) == (waiting, "NEW", None)


async def test_nothing_to_mark(store: Store, session: AsyncSession) -> None:
    await store.mark_sent(session, [])

    assert await store.mark_refused(session, {}, {}, Retries()) == 0


async def test_a_refused_row_waits_for_its_next_attempt(store: Store, session: AsyncSession, rows: Rows) -> None:
    refused = await rows.insert()
    retries = Retries(maximum=3, initial_seconds=3600, longest_seconds=3600)

    failed = await store.mark_refused(session, {refused: Refusal("not now")}, {refused: 0}, retries)
    await session.commit()

    [row] = await rows.all()
    assert (failed, row.status, row.retry_cnt, row.last_error) == (0, "NEW", 1, "not now")
    assert timedelta(minutes=29) < row.available_at - row.created_at < timedelta(minutes=61)
    assert len(await store.claim(session, 10)) == 0


async def test_the_wait_grows_with_each_refusal(store: Store, session: AsyncSession, rows: Rows) -> None:
    """The statement takes each row's own wait."""
    young, old = await rows.insert(), await rows.insert(retry_cnt=4)
    retries = Retries(maximum=100, initial_seconds=100, longest_seconds=10_000)

    await store.mark_refused(session, dict.fromkeys((young, old), Refusal("no")), {young: 0, old: 4}, retries)
    await session.commit()

    waits = [row.available_at - row.created_at for row in await rows.all()]
    assert waits[0] < timedelta(seconds=200) < timedelta(seconds=700) < waits[1]


async def test_the_last_attempt_turns_the_row_to_err(store: Store, session: AsyncSession, rows: Rows) -> None:
    refused = await rows.insert()

    failed = []
    for count in range(3):
        failed.append(await store.mark_refused(session, {refused: Refusal(f"no {count}")}, {refused: count}, AT_ONCE))
    await session.commit()

    [row] = await rows.all()
    assert (failed, row.status, row.retry_cnt, row.last_error) == ([0, 0, 1], "ERR", 3, "no 2")


async def test_a_permanent_refusal_turns_the_row_to_err_at_once(
    store: Store, session: AsyncSession, rows: Rows
) -> None:
    hopeless, retried = await rows.insert(), await rows.insert()

    failed = await store.mark_refused(
        session,
        {hopeless: Refusal("too large", permanent=True), retried: Refusal("not now")},
        {hopeless: 0, retried: 0},
        Retries(initial_seconds=3600, longest_seconds=3600),
    )
    await session.commit()

    assert failed == 1
    failed_row, waiting = await rows.all()
    assert (failed_row.status, failed_row.retry_cnt, failed_row.last_error) == ("ERR", 1, "too large")
    assert (waiting.status, waiting.retry_cnt, waiting.last_error) == ("NEW", 1, "not now")
    # One tells when it failed, the other from when on it may be tried again.
    assert failed_row.available_at < waiting.available_at


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
    store = Store(outbox_table, tenant)

    async with sessions.begin() as session:
        claim = await store.claim(session, 10)
        assert _ids(claim) == [readable]
        assert claim.unreadable[hopeless].reason == "the row cannot be read: payload is empty"
        refused = {readable: Refusal("not now"), **claim.unreadable}
        assert await store.mark_refused(session, refused, claim.retry_counts, Retries()) == 1

    found = {row.id: (row.status, row.retry_cnt) for row in await Rows(sessions, tenant).all()}
    assert found == {readable: ("NEW", 1), hopeless: ("ERR", 1)}


# measure


async def test_an_empty_table_has_no_backlog(store: Store, session: AsyncSession) -> None:
    backlog = await store.measure(session)

    assert (backlog.pending, backlog.errors, backlog.oldest_seconds) == (0, 0, 0)


async def test_the_backlog_is_what_waits_and_what_failed(
    store: Store, session: AsyncSession, sessions: Sessions, rows: Rows
) -> None:
    await rows.insert(status="SENT", sql={"created_at": "now() - interval '9 hours'"})
    await rows.insert(status="ERR", sql={"created_at": "now() - interval '8 hours'"})
    await rows.insert(sql={"created_at": "now() - interval '1 hour'"})
    await rows.insert(sql={"available_at": "now() + interval '1 hour'"})
    await Rows(sessions, unique("tenant")).insert(sql={"created_at": "now() - interval '7 hours'"})

    backlog = await store.measure(session)

    assert (backlog.pending, backlog.errors, backlog.pending_is_lower_bound) == (2, 1, False)
    assert 3600 <= backlog.oldest_seconds < 7200


async def test_a_clock_that_is_ahead_gives_no_negative_age(store: Store, session: AsyncSession, rows: Rows) -> None:
    await rows.insert(sql={"created_at": "now() + interval '1 hour'"})

    assert (await store.measure(session)).oldest_seconds == 0


async def test_counting_ends_at_its_limit(
    store: Store, session: AsyncSession, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox_projector.store.COUNT_LIMIT", 10)
    await rows.insert_many(25)

    backlog = await store.measure(session)

    assert (backlog.pending, backlog.pending_is_lower_bound) == (10, True)


# other names


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("events", "shop"),
        ("Order Events", "My Shop"),
        ("select", "user"),
        ('quo"ted', 'quo"ted'),
        ("half :late", "100%"),
        ("back\\slash \\1", "{braces}"),
        ("t" * LONGEST_NAME, "s" * 63),
    ],
)
async def test_any_name_that_postgres_takes(empty_engine: AsyncEngine, tenant: str, name: str, schema: str) -> None:
    table = _named(name, schema)
    preparer = empty_engine.dialect.identifier_preparer
    async with empty_engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE SCHEMA {preparer.quote_schema(schema)}")
    await apply_schema(empty_engine, table=name, schema=schema)
    await validate_schema(empty_engine, table=name, schema=schema)
    store, sessions = Store(table, tenant), async_sessionmaker(empty_engine)
    sent, refused = envelope(tenant_id=tenant), envelope(tenant_id=tenant)

    async with sessions.begin() as session:
        await write(session, sent, refused, table=table)
        claim = await store.claim(session, 10)
        await store.mark_sent(session, [sent.id])
        await store.mark_refused(session, {refused.id: Refusal("no")}, claim.retry_counts, Retries())
        backlog = await store.measure(session)

    assert _ids(claim) == [sent.id, refused.id]
    assert (backlog.pending, backlog.errors) == (1, 0)
    assert await Rows(sessions, tenant, table).statuses() == ["SENT", "NEW"]


def _named(name: str, schema: str) -> Table:
    return make_outbox_table(MetaData(), name=name, schema=schema)


async def test_two_claims_at_once_share_the_rows(store: Store, sessions: Sessions, rows: Rows) -> None:
    inserted = await rows.insert_many(100)
    both_claimed = asyncio.Barrier(2)

    async def claimed() -> list[UUID]:
        async with sessions() as session:
            ids = _ids(await store.claim(session, 60))
            await both_claimed.wait()
            return ids

    one, other = await asyncio.gather(claimed(), claimed())

    assert sorted([*one, *other]) == sorted(inserted)


async def test_the_claim_of_a_deep_backlog_reads_the_index_in_order(
    engine: AsyncEngine, session: AsyncSession, rows: Rows, tenant: str
) -> None:
    """No sort of the whole backlog for each batch."""
    await rows.insert_many(5000)
    await session.execute(text("ANALYZE outbox"))

    plan = await session.execute(
        text(f"EXPLAIN {Store(outbox_table, tenant)._claim.text}"), {"tenant_id": tenant, "batch_size": 10}
    )

    steps = "\n".join(plan.scalars())
    assert "Index Scan using outbox_tenant_status_seq" in steps
    assert "Sort" not in steps


async def test_the_core_table_and_the_statements_mean_the_same_columns(
    store: Store, session: AsyncSession, tenant: str
) -> None:
    await session.execute(
        insert(outbox_table).values(tenant_id=tenant, aggregate_id="order-1", type="orders.Placed", payload={"n": 1})
    )

    assert [event.payload for event in (await store.claim(session, 1)).envelopes] == [b'{"n": 1}']
