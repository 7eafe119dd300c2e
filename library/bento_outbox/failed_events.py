"""Events that failed for good (status ERR): to find them, to deliver them after all, or to give them up.

    find ──► the events, as they are now ──► requeue    ERR → NEW, all attempts again
                                         └─► discard    ERR → gone, never delivered

Both take the ids that were found, so what is done is what was shown: an event that fails meanwhile is not among them,
and one that somebody else requeued or discarded meanwhile is not ERR any more and is left alone. They work in batches,
a transaction each, so that no lock is held for long; after a crash the same call finishes the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import MetaData, Table, TextClause
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.errors import MisuseError
from bento_outbox.statements import statement

BATCH_SIZE = 1000
"""Rows a transaction: long enough to be quick, short enough to hold up no projector."""

REQUEUED_HEADER = "requeued"
"""On a requeued event: when (RFC 3339, UTC). It may arrive after later events of its aggregate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which failed events of a tenant; what is None holds nothing back.

    error: part of the reason, whatever its case. since, until: when the event was created, the latter exclusive; both
    with a time zone. Raises MisuseError.
    """

    tenant_id: str
    type: str | None = None
    aggregate_id: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    ids: tuple[UUID, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tenant_id:
            raise MisuseError("a tenant's id is not empty: name the tenant whose events are meant")
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and moment.tzinfo is None:
                raise MisuseError(f"{name} has no time zone: write it as in 2026-01-31T03:00:00+00:00")
        if self.since and self.until and self.since >= self.until:
            raise MisuseError("since is not before until, so no event is between them")


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """An event with status ERR. error: why the last attempt failed, if that was written down."""

    id: UUID
    aggregate_id: str
    type: str
    attempts: int
    created_at: datetime
    error: str | None


class FailedEvents:
    """The failed events of one outbox table."""

    def __init__(self, engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None) -> None:
        self._engine = engine
        self._table = Table(table, MetaData(), schema=schema)

    async def find(self, wanted: Filter, *, limit: int | None = None) -> list[FailedEvent]:
        """The events, oldest first, at most `limit` of them."""
        values = {
            "tenant_id": wanted.tenant_id,
            "type": wanted.type,
            "aggregate_id": wanted.aggregate_id,
            "error": wanted.error,
            "since": wanted.since,
            "until": wanted.until,
            "ids": None if wanted.ids is None else list(wanted.ids),
            "row_limit": limit,
        }
        async with self._engine.connect() as connection:
            rows = await connection.execute(self._statement("find"), values)
            return [
                FailedEvent(row.id, row.aggregate_id, row.type, row.retry_cnt or 0, row.created_at, row.last_error)
                for row in rows
            ]

    async def requeue(self, tenant_id: str, ids: Sequence[UUID], *, now: datetime | None = None) -> int:
        """Lets the projector try them again; they say so in the header `requeued`. Returns how many were still ERR."""
        moment = (now or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
        return await self._change("requeue", tenant_id, ids, requeued=moment)

    async def discard(self, tenant_id: str, ids: Sequence[UUID]) -> int:
        """Deletes them: they are never delivered. Returns how many were still ERR."""
        return await self._change("discard", tenant_id, ids)

    async def _change(self, name: str, tenant_id: str, ids: Sequence[UUID], **values: Any) -> int:
        changed = 0
        for start in range(0, len(ids), BATCH_SIZE):
            batch = list(ids[start : start + BATCH_SIZE])
            async with self._engine.begin() as connection:
                result: CursorResult[Any] = await connection.execute(
                    self._statement(name), {"tenant_id": tenant_id, "ids": batch, **values}
                )
                changed += result.rowcount
        return changed

    def _statement(self, name: str) -> TextClause:
        return statement("bento_outbox", "failed_events.sql", name, self._table)
