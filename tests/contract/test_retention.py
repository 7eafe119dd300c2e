"""Retention on the real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox.schema import apply_schema
from bento_outbox.table import outbox_table
from outbox_projector.database import Database, UrlFile
from outbox_projector.retention import LATEST_SECONDS, PAUSE_SECONDS, SOONEST_SECONDS, Limit, Retention
from outbox_projector.sessions import borrowed
from tests.conftest import unique
from tests.support.rows import Rows
from tests.support.watched import Planned, steps_of

Sessions = async_sessionmaker[AsyncSession]
NewRetention = Callable[..., Retention]

LONG_AGO = "now() - interval '2 hours'"
SENT, ERR = Limit("SENT", 3600), Limit("ERR", 3600)


@pytest.fixture
def deleted() -> list[int]:
    """What retention says it deleted, batch by batch."""
    return []


@pytest.fixture
def new_retention(sessions: Sessions, tenant: str, deleted: list[int]) -> NewRetention:
    def make(*limits: Limit, **options: Any) -> Retention:
        return Retention(borrowed(sessions), outbox_table, tenant, *limits, deleted=deleted.append, **options)

    return make


async def _sent(rows: Rows, count: int, *, since: str = LONG_AGO) -> None:
    await rows.insert_many(count)
    await rows.change(f"status = 'SENT', sent_at = {since}")


# one batch


async def test_only_old_rows_of_the_status_go(new_retention: NewRetention, rows: Rows, deleted: list[int]) -> None:
    for status in ("NEW", "SENT", "ERR"):
        await rows.insert(status=status, sql={"created_at": LONG_AGO, "sent_at": LONG_AGO, "available_at": LONG_AGO})
    await rows.insert(status="SENT", sql={"created_at": LONG_AGO, "sent_at": "now()"})
    await rows.insert(status="ERR", sql={"created_at": LONG_AGO, "available_at": "now()"})
    retention = new_retention(SENT, ERR)

    assert await retention.delete_batch(SENT) == 1
    assert await rows.statuses() == ["NEW", "ERR", "SENT", "ERR"]
    assert await retention.delete_batch(ERR) == 1
    assert await rows.statuses() == ["NEW", "SENT", "ERR"]
    assert deleted == [1, 1]


async def test_of_a_row_without_a_time_its_creation_counts(new_retention: NewRetention, rows: Rows) -> None:
    await rows.insert(status="SENT", sql={"created_at": LONG_AGO})

    assert await new_retention(SENT).delete_batch(SENT) == 1


async def test_a_batch_at_a_time_what_was_sent_first_goes_first(new_retention: NewRetention, rows: Rows) -> None:
    for minutes in (70, 90, 80):
        await rows.insert(
            status="SENT", payload={"n": minutes}, sql={"sent_at": f"now() - interval '{minutes} minutes'"}
        )
    retention = new_retention(SENT, batch_size=2)

    assert await retention.delete_batch(SENT) == 2
    assert [row.payload["n"] for row in await rows.all()] == [70]
    assert [await retention.delete_batch(SENT) for _ in range(2)] == [1, 0]


async def test_other_tenants_rows_stay(new_retention: NewRetention, sessions: Sessions) -> None:
    other = Rows(sessions, unique("tenant"))
    await _sent(other, 2)

    assert await new_retention(SENT).delete_batch(SENT) == 0
    assert await other.count("SENT") == 2


async def test_one_pod_at_a_time(new_retention: NewRetention, engine: AsyncEngine, rows: Rows, tenant: str) -> None:
    await _sent(rows, 1)
    retention = new_retention(SENT)
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('bento_outbox retention ' || :tenant, 0))"
    async with engine.begin() as other:
        await other.execute(text(lock), {"tenant": tenant})
        assert await retention.delete_batch(SENT) == 0
    assert await retention.delete_batch(SENT) == 1


async def test_a_batch_reads_no_more_of_the_index_than_the_batch_whatever_the_statistics_say(
    empty_engine: AsyncEngine,
) -> None:
    """The planner expects 50 rows, since there were so many when they were counted. By itself it would read all of
    them, however many there are now, and sort them for each batch.
    """
    await apply_schema(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    planned = Planned(borrowed(sessions), "DELETE")
    retention = Retention(planned, outbox_table, "tenant-0", SENT, deleted=lambda _: None)
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO outbox (tenant_id, aggregate_id, type, payload, status, sent_at) "
                "SELECT 'tenant-' || n % 100, 'order-1', 'orders.Placed', '{}', 'SENT', now() - n * interval '1 day' "
                "FROM generate_series(1, 5000) AS n"
            )
        )
        await session.execute(text("ANALYZE outbox"))

    await retention.delete_batch(SENT)

    steps = list(steps_of(planned.plans[0]))
    assert "outbox_sent" in {step.get("Index Name") for step in steps}
    assert not {"Sort", "Seq Scan"} & {step["Node Type"] for step in steps}


# the loop


class Pauses:
    """Stands for time: takes the pauses, and ends the loop after so many."""

    def __init__(self, count: int) -> None:
        self.taken: list[float] = []
        self._count = count

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)
        if len(self.taken) == self._count:
            raise asyncio.CancelledError


async def _run(retention: Retention) -> None:
    with pytest.raises(asyncio.CancelledError):
        await retention.run_forever()


async def test_full_batches_follow_each_other_until_nothing_is_old(
    new_retention: NewRetention, rows: Rows, deleted: list[int]
) -> None:
    await _sent(rows, 5)
    pauses = Pauses(3)

    await _run(new_retention(SENT, batch_size=2, rest=pauses))

    assert deleted == [2, 2, 1]
    assert all(PAUSE_SECONDS <= pause < SOONEST_SECONDS / 2 for pause in pauses.taken[:2])
    assert pauses.taken[2] >= 0.8 * 360


@pytest.mark.parametrize(("keep_seconds", "pause"), [(0, SOONEST_SECONDS), (3600, 360), (10**8, LATEST_SECONDS)])
async def test_the_pause_of_an_idle_one_is_a_tenth_of_the_limit_within_bounds(
    new_retention: NewRetention, keep_seconds: float, pause: float
) -> None:
    pauses = Pauses(1)

    await _run(new_retention(Limit("SENT", keep_seconds), rest=pauses))

    assert 0.8 * pause <= pauses.taken[0] <= 1.2 * pause


async def test_an_outage_is_waited_out(
    sessions: Sessions, tenant: str, rows: Rows, deleted: list[int], tmp_path: Path
) -> None:
    await _sent(rows, 1)

    database = Database(UrlFile(tmp_path / "url", "acme/url"))  # not there yet
    tries = iter([database, borrowed(sessions)])
    retention = Retention(lambda: next(tries)(), outbox_table, tenant, SENT, deleted=deleted.append, rest=Pauses(2))

    await _run(retention)

    assert deleted == [1]
