"""Events that failed for good (status ERR): to find them, to deliver them after all, or to give them up.

    find ──► the events, as they are now ──► requeue    ERR → NEW, all attempts again
                                         └─► discard    ERR → gone, never delivered

Both take the ids that were found, so what is done is what was shown: an event that fails meanwhile is not among them,
and one that somebody else requeued or discarded meanwhile is not ERR any more and is left alone. They work in batches,
a transaction each, so that no lock is held for long; after a crash the same call finishes the rest.

`FailedRows` is the same in a transaction of the caller's: for the projector, which carries out what an OutboxTenant's
spec asks for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import MetaData, Table, TextClause
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bento_outbox.errors import MisuseError
from bento_outbox.headers import REQUEUED_AT
from bento_outbox.statements import statement
from bento_outbox.waking import channel_of

Action = Literal["requeue", "discard"]

BATCH_SIZE = 1000
"""Rows a transaction: long enough to be quick, short enough to hold up no projector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which failed events of a tenant; what is None holds nothing back.

    error: part of the reason, whatever its case. since, until: when the event was created; failed_since, failed_until:
    when it became ERR. Ends are exclusive, and times have a time zone. Raises MisuseError.
    """

    tenant_id: str
    type: str | None = None
    aggregate_id: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    failed_since: datetime | None = None
    failed_until: datetime | None = None
    ids: tuple[UUID, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tenant_id:
            raise MisuseError("a tenant's id is not empty: name the tenant whose events are meant")
        for first, last in (("since", "until"), ("failed_since", "failed_until")):
            begin, end = getattr(self, first), getattr(self, last)
            for name, moment in ((first, begin), (last, end)):
                if moment is not None and moment.tzinfo is None:
                    raise MisuseError(f"{name} has no time zone: write it as in 2026-01-31T03:00:00+00:00")
            if begin and end and begin >= end:
                raise MisuseError(f"{first} is not before {last}, so no event is between them")


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


class FailedRows:
    """Statements on the failed rows of one outbox table, each within the transaction it is given."""

    def __init__(self, table: Table) -> None:
        self._table = table

    async def find(
        self,
        connection: AsyncConnection,
        wanted: Filter,
        *,
        after: int | None = None,
        through: int | None = None,
        limit: int | None = None,
    ) -> list[FailedEvent]:
        """The oldest events that `wanted` lets through, at most `limit`; those with `after` < seq <= `through`."""
        values = asdict(wanted) | {"after_seq": after, "through_seq": through, "row_limit": limit}
        values["ids"] = None if wanted.ids is None else list(wanted.ids)
        rows = await connection.execute(self._statement("find"), values)
        return [
            FailedEvent(
                id=row.id,
                seq=row.seq,
                aggregate_id=row.aggregate_id,
                type=row.type,
                attempts=row.retry_cnt or 0,
                created_at=row.created_at,
                failed_at=row.failed_at,
                error=row.last_error,
            )
            for row in rows
        ]

    async def change(self, connection: AsyncConnection, action: Action, tenant_id: str, ids: Sequence[UUID]) -> int:
        """Requeues or discards them. Returns how many were still ERR."""
        values: dict[str, Any] = {"tenant_id": tenant_id, "ids": list(ids)}
        if action == "requeue":
            values["header"] = REQUEUED_AT
        result: CursorResult[Any] = await connection.execute(self._statement(action), values)
        if result.rowcount:
            await connection.execute(self._statement("wake"), {"channel": channel_of(self._table, tenant_id)})
        return result.rowcount

    def _statement(self, name: str) -> TextClause:
        return statement("bento_outbox", "failed_events.sql", name, self._table)


class FailedEvents:
    """The failed events of one outbox table."""

    def __init__(self, engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None) -> None:
        self._engine = engine
        self._rows = FailedRows(Table(table, MetaData(), schema=schema))

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
        return await self._change("requeue", tenant_id, ids)

    async def discard(self, tenant_id: str, ids: Sequence[UUID]) -> int:
        """Deletes them: they are never delivered. Returns how many were still ERR."""
        return await self._change("discard", tenant_id, ids)

    async def _pages(self, wanted: Filter, limit: int | None) -> AsyncIterator[list[FailedEvent]]:
        after, left = None, limit
        async with self._engine.connect() as connection:
            while left is None or left > 0:
                size = BATCH_SIZE if left is None else min(left, BATCH_SIZE)
                page = await self._rows.find(connection, wanted, after=after, limit=size)
                yield page
                if len(page) < size:
                    return
                after, left = page[-1].seq, None if left is None else left - size

    async def _change(self, action: Action, tenant_id: str, ids: Sequence[UUID]) -> int:
        changed = 0
        for start in range(0, len(ids), BATCH_SIZE):
            async with self._engine.begin() as connection:
                changed += await self._rows.change(connection, action, tenant_id, ids[start : start + BATCH_SIZE])
        return changed
