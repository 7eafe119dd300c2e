"""What the projector's statements do to the real table."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Refusal
from bento_outbox.schema import apply_schema
from bento_outbox.table import outbox_table
from outbox_projector import Retries
from outbox_projector.database import Connect
from outbox_projector.sessions import borrowed
from outbox_projector.store import Store
from tests.conftest import unique
from tests.support.rows import Rows
from tests.support.watched import Planned, Watched, steps_of

Sessions = async_sessionmaker[AsyncSession]
Connection = asyncpg.Connection
AT_ONCE = Retries(maximum=3, initial_seconds=1e-6, longest_seconds=1e-6)


@pytest.fixture
def store(tenant: str) -> Store:
    return Store(outbox_table, tenant)


@pytest.fixture
async def connection(sessions: Sessions) -> AsyncIterator[Connection]:
    async with borrowed(sessions)() as connection:
        yield connection


# settle


async def test_nothing_to_mark(store: Store, connection: Connection) -> None:
    assert await store.mark_refused(connection, {}, {}, Retries()) == 0


async def test_a_refused_row_waits_for_its_next_attempt(store: Store, connection: Connection, rows: Rows) -> None:
    refused = await rows.insert()
    retries = Retries(maximum=3, initial_seconds=3600, longest_seconds=3600)

    failed = await store.mark_refused(connection, {refused: Refusal("not now")}, {refused: 0}, retries)

    [row] = await rows.all()
    assert (failed, row.status, row.retry_cnt, row.last_error) == (0, "NEW", 1, "not now")
    assert timedelta(minutes=29) < row.available_at - row.created_at < timedelta(minutes=61)


async def test_the_wait_grows_with_each_refusal(store: Store, connection: Connection, rows: Rows) -> None:
    """The statement takes each row's own wait."""
    young, old = await rows.insert(), await rows.insert(retry_cnt=4)
    retries = Retries(maximum=100, initial_seconds=100, longest_seconds=10_000)

    await store.mark_refused(connection, dict.fromkeys((young, old), Refusal("no")), {young: 0, old: 4}, retries)

    waits = [row.available_at - row.created_at for row in await rows.all()]
    assert waits[0] < timedelta(seconds=200) < timedelta(seconds=700) < waits[1]


async def test_the_last_attempt_turns_the_row_to_err(store: Store, connection: Connection, rows: Rows) -> None:
    refused = await rows.insert()

    failed = []
    for count in range(3):
        failed.append(
            await store.mark_refused(connection, {refused: Refusal(f"no {count}")}, {refused: count}, AT_ONCE)
        )

    [row] = await rows.all()
    assert (failed, row.status, row.retry_cnt, row.last_error) == ([0, 0, 1], "ERR", 3, "no 2")


async def test_a_permanent_refusal_turns_the_row_to_err_at_once(
    store: Store, connection: Connection, rows: Rows
) -> None:
    hopeless, retried = await rows.insert(), await rows.insert()

    failed = await store.mark_refused(
        connection,
        {hopeless: Refusal("too large", permanent=True), retried: Refusal("not now")},
        {hopeless: 0, retried: 0},
        Retries(initial_seconds=3600, longest_seconds=3600),
    )

    assert failed == 1
    failed_row, waiting = await rows.all()
    assert (failed_row.status, failed_row.retry_cnt, failed_row.last_error) == ("ERR", 1, "too large")
    assert (waiting.status, waiting.retry_cnt, waiting.last_error) == ("NEW", 1, "not now")
    # One tells when it failed, the other from when on it may be tried again.
    assert failed_row.available_at < waiting.available_at


# measure


async def test_an_empty_table_has_no_backlog(store: Store, sessions: Sessions) -> None:
    backlog = await store.measure(borrowed(sessions))

    assert (backlog.pending, backlog.errors, backlog.oldest_seconds) == (0, 0, 0)


async def test_the_backlog_is_what_waits_and_what_failed(store: Store, sessions: Sessions, rows: Rows) -> None:
    await rows.insert(status="SENT", sql={"created_at": "now() - interval '9 hours'"})
    await rows.insert(status="ERR", sql={"created_at": "now() - interval '8 hours'"})
    await rows.insert(sql={"created_at": "now() - interval '1 hour'"})
    await rows.insert(sql={"available_at": "now() + interval '1 hour'"})
    await Rows(sessions, unique("tenant")).insert(sql={"created_at": "now() - interval '7 hours'"})

    backlog = await store.measure(borrowed(sessions))

    assert (backlog.pending, backlog.errors, backlog.pending_is_lower_bound) == (2, 1, False)
    assert 3600 <= backlog.oldest_seconds < 7200


async def test_a_clock_that_is_ahead_gives_no_negative_age(store: Store, sessions: Sessions, rows: Rows) -> None:
    await rows.insert(sql={"created_at": "now() + interval '1 hour'"})

    assert (await store.measure(borrowed(sessions))).oldest_seconds == 0


async def test_counting_ends_at_its_limit(
    store: Store, sessions: Sessions, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox_projector.store.COUNT_LIMIT", 10)
    await rows.insert_many(25)

    backlog = await store.measure(borrowed(sessions))

    assert (backlog.pending, backlog.pending_is_lower_bound) == (10, True)


class Uncounting:
    """Lends connections on which the server gives up counting, as with a short statement_timeout of the role."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        async with self._connect() as connection:

            async def fetchval(sql: str, *arguments: Any) -> Any:
                await connection.execute("SET LOCAL statement_timeout = 1")
                return await connection.fetchval("SELECT pg_sleep(60)")

            uncounting = SimpleNamespace(fetch=connection.fetch, execute=connection.execute, fetchval=fetchval)
            uncounting.is_closed = connection.is_closed
            yield uncounting


async def test_where_counting_takes_too_long_age_and_errors_are_told_all_the_same(
    store: Store, sessions: Sessions, rows: Rows
) -> None:
    await rows.insert(status="ERR")
    await rows.insert(sql={"created_at": "now() - interval '1 hour'"})
    await rows.insert()

    backlog = await store.measure(Uncounting(borrowed(sessions)))

    assert (backlog.pending, backlog.errors, backlog.pending_is_lower_bound) == (1, 1, True)
    assert 3600 <= backlog.oldest_seconds < 7200
    assert "canceling statement due to statement timeout" in backlog.uncounted


async def test_while_nothing_waits_a_measurement_is_one_statement_outside_a_transaction(
    store: Store, sessions: Sessions, rows: Rows
) -> None:
    await rows.insert(status="ERR")
    watched = Watched(borrowed(sessions))

    await store.measure(watched)

    assert len(watched.statements) == 1


async def test_counting_reads_the_index_in_order_whatever_the_statistics_say(empty_engine: AsyncEngine) -> None:
    """By itself the planner, which expects 50 rows, takes a bitmap, which reads all there are, beyond any limit. That
    the rows are held for later makes no difference.
    """
    await apply_schema(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO outbox (tenant_id, aggregate_id, type, payload, available_at) "
                "SELECT 'tenant-' || n % 100, 'order-1', 'orders.Placed', '{}', now() + interval '1 day' "
                "FROM generate_series(1, 5000) AS n"
            )
        )
        await session.execute(text("ANALYZE outbox"))
    planned = Planned(borrowed(sessions), "count(*)", options="ANALYZE, TIMING OFF")

    backlog = await Store(outbox_table, "tenant-0").measure(planned)

    assert backlog.pending == 50
    look, count = [[step for step in steps_of(plan) if step.get("Relation Name") == "outbox"] for plan in planned.plans]
    read = [("outbox_tenant_status_seq", rows) for rows in (50, 1)]
    assert [(step.get("Index Name"), step["Actual Rows"]) for step in count] == read[:1]
    assert read[1] in [(step.get("Index Name"), step["Actual Rows"]) for step in look]
    assert "Bitmap Heap Scan" not in {step["Node Type"] for step in (*look, *count)}
