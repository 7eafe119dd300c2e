"""Events that failed for good (status ERR): to find them, to deliver them after all, or to give them up.

    find ──► the events, as they are now ──► requeue    ERR → NEW, all attempts again
                                         └─► discard    ERR → gone, never delivered

Both take the ids that were found, so what is done is what was shown: an event that fails meanwhile is not among them,
and one that somebody else requeued or discarded meanwhile is not ERR any more and is left alone. They work in batches,
a transaction each, so that no lock is held for long; after a crash the same call finishes the rest.

The projector, which carries out what an OutboxTenant's spec asks for, runs the same statements: `failed_events.sql`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import MetaData, Row, Table, TextClause
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.channels import channel_of
from bento_outbox.failed_filter import BATCH_SIZE, Action, Filter
from bento_outbox.headers import REQUEUED_AT
from bento_outbox.statements import statement


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """An event with status ERR. error: why the last attempt failed, if that was written down."""

    id: UUID
    seq: int
    aggregate_id: str
    type: str
    attempts: int
    created_at: datetime
    failed_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Selection:
    """The ids of failed events, oldest first, and how many there are of each type."""

    ids: list[UUID] = field(default_factory=list)
    types: Counter[str] = field(default_factory=Counter)


class FailedEvents:
    """The failed events of one outbox table."""

    def __init__(self, engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None) -> None:
        self._engine = engine
        self._table = Table(table, MetaData(), schema=schema)

    async def find(self, wanted: Filter, *, limit: int | None = None) -> list[FailedEvent]:
        """The events, oldest first, at most `limit` of them."""
        return [event async for page in self._pages(wanted, limit) for event in page]

    async def select(self, wanted: Filter, *, limit: int | None = None) -> Selection:
        """The same events by id alone, for any number of them."""
        chosen = Selection()
        async for page in self._pages(wanted, limit):
            chosen.ids.extend(event.id for event in page)
            chosen.types.update(event.type for event in page)
        return chosen

    async def requeue(self, tenant_id: str, ids: Sequence[UUID]) -> int:
        """Lets the projector try them again; their header `requeued_at` says so. Returns how many were still ERR."""
        return await self._change("requeue", {"tenant_id": tenant_id, "header": REQUEUED_AT}, ids)

    async def discard(self, tenant_id: str, ids: Sequence[UUID]) -> int:
        """Deletes them: they are never delivered. Returns how many were still ERR."""
        return await self._change("discard", {"tenant_id": tenant_id}, ids)

    async def _pages(self, wanted: Filter, limit: int | None) -> AsyncIterator[list[FailedEvent]]:
        after, left = None, limit
        async with self._engine.connect() as connection:
            while left is None or left > 0:
                size = BATCH_SIZE if left is None else min(left, BATCH_SIZE)
                values = wanted.values(after=after, through=None, limit=size)
                rows = (await connection.execute(self._statement("find"), values)).all()
                yield [_event(row) for row in rows]
                if len(rows) < size:
                    return
                after, left = rows[-1].seq, None if left is None else left - size

    async def _change(self, action: Action, values: Mapping[str, Any], ids: Sequence[UUID]) -> int:
        changed = 0
        for start in range(0, len(ids), BATCH_SIZE):
            async with self._engine.begin() as connection:
                batch = {**values, "ids": list(ids[start : start + BATCH_SIZE])}
                result: CursorResult[Any] = await connection.execute(self._statement(action), batch)
                if result.rowcount:
                    channel = channel_of(self._table, values["tenant_id"])
                    await connection.execute(self._statement("wake"), {"channel": channel})
                changed += result.rowcount
        return changed

    def _statement(self, name: str) -> TextClause:
        return statement("bento_outbox", "failed_events.sql", name, self._table)


def _event(row: Row[Any]) -> FailedEvent:
    return FailedEvent(
        id=row.id,
        seq=row.seq,
        aggregate_id=row.aggregate_id,
        type=row.type,
        attempts=row.retry_cnt or 0,
        created_at=row.created_at,
        failed_at=row.failed_at,
        error=row.last_error,
    )
