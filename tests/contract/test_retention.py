"""Retention on the real Postgres."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.table import outbox_table
from outbox_projector.retention import delete_old
from tests.support.rows import Rows

LONG_AGO = {"created_at": "now() - interval '2 hours'", "sent_at": "now() - interval '2 hours'"}
HOUR = 3600.0


async def test_only_old_rows_of_the_status_go(engine: AsyncEngine, rows: Rows, tenant: str) -> None:
    for status in ("NEW", "SENT", "ERR"):
        await rows.insert(status=status, sql=LONG_AGO)
    await rows.insert(status="SENT", sql={**LONG_AGO, "sent_at": "now()"})
    assert await delete_old(engine, outbox_table, tenant, status="SENT", keep_seconds=HOUR) == 1
    assert await rows.statuses() == ["NEW", "ERR", "SENT"]
    assert await delete_old(engine, outbox_table, tenant, status="ERR", keep_seconds=HOUR) == 1
    assert await rows.statuses() == ["NEW", "SENT"]


async def test_a_batch_at_a_time_the_oldest_first(engine: AsyncEngine, rows: Rows, tenant: str) -> None:
    made = await rows.insert_many(5)
    await rows.change("status = 'SENT', sent_at = now() - interval '2 hours'")
    deleted = [
        await delete_old(engine, outbox_table, tenant, status="SENT", keep_seconds=HOUR, batch_size=3) for _ in range(3)
    ]
    assert (len(made), deleted) == (5, [3, 2, 0])


async def test_one_pod_at_a_time(engine: AsyncEngine, rows: Rows, tenant: str) -> None:
    await rows.insert(status="SENT", sql=LONG_AGO)
    lock = "SELECT pg_advisory_xact_lock(hashtextextended('bento_outbox retention ' || :tenant, 0))"
    async with engine.begin() as other:
        await other.execute(text(lock), {"tenant": tenant})
        assert await delete_old(engine, outbox_table, tenant, status="SENT", keep_seconds=HOUR) == 0
    assert await delete_old(engine, outbox_table, tenant, status="SENT", keep_seconds=HOUR) == 1
