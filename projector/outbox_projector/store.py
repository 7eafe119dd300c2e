"""The outbox table as the projector sees it: settle, measure. Each call is one statement of `queries.sql`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Table
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import Envelope, Refusal
from bento_outbox.statements import statement
from bento_outbox.table import ERR
from outbox_projector.database import autocommitting
from outbox_projector.policies import Retries

COUNT_LIMIT = 100_000
"""Pending and failed rows are counted exactly up to here; the figure is a lower bound beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits (NEW) and what failed (ERR); `oldest_seconds` is the age of the oldest NEW row, 0 if none."""

    pending: int
    errors: int
    oldest_seconds: float

    @property
    def pending_is_lower_bound(self) -> bool:
        return self.pending >= COUNT_LIMIT


class Store:
    """Statements on one tenant's rows, each within the session it is given."""

    def __init__(self, table: Table, tenant_id: str, *, keep_sent: bool = True) -> None:
        """keep_sent: whether a row that is sent stays in the table, marked; else it is deleted."""
        self._tenant_id = tenant_id
        self._mark_sent = statement(__package__, "queries.sql", "mark_sent" if keep_sent else "delete_sent", table)
        self._mark_refused = statement(__package__, "queries.sql", "mark_refused", table)
        names = ("look", "in_order", "count_pending")
        self._measuring = {name: statement(__package__, "queries.sql", name, table) for name in names}

    async def mark_sent(self, session: AsyncSession, ids: Collection[UUID]) -> None:
        """NEW → SENT, or gone."""
        if ids:
            await session.execute(self._mark_sent, {"ids": list(ids)})

    async def mark_refused(
        self,
        session: AsyncSession,
        refused: Mapping[UUID, Refusal],
        counts: Mapping[UUID, int],
        retries: Retries,
    ) -> int:
        """NEW → NEW, later; or NEW → ERR. Returns how many became ERR."""
        if not refused:
            return 0
        statuses = await session.execute(
            self._mark_refused,
            {
                "ids": list(refused),
                "reasons": [_as_text(refusal.reason) for refusal in refused.values()],
                "permanent": [refusal.permanent for refusal in refused.values()],
                "waits": [retries.wait(counts[event_id] + 1) for event_id in refused],
                "max_retries": retries.maximum,
            },
        )
        return sum(status == ERR for status in statuses.scalars())

    async def measure(self, session_factory: Callable[[], AsyncSession]) -> Backlog:
        """Counts what waits and what failed. One statement when nothing waits, else a short transaction besides."""
        values = {"tenant_id": self._tenant_id, "count_limit": COUNT_LIMIT}
        async with autocommitting(session_factory) as session:
            row = (await session.execute(self._measuring["look"], values)).one()
        pending = 0
        if row.oldest_seq is not None:
            async with session_factory() as session, session.begin():
                await session.execute(self._measuring["in_order"])
                counted = await session.execute(
                    self._measuring["count_pending"], values | {"oldest_seq": row.oldest_seq}
                )
                pending = counted.scalar_one()
        # What was there at the first look may be delivered before the second.
        oldest_seconds = float(row.oldest_seconds) if pending else 0.0
        return Backlog(pending=pending, errors=row.errors, oldest_seconds=oldest_seconds)


def read_row(row: Row[Any]) -> Envelope:
    """The row as an envelope. Raises ValueError: other writers than our library may insert what they like.

    A table that was made by an older version may hold NULL wherever its writer left something out.
    """
    headers = json.loads(row.headers or "{}")
    if not isinstance(headers, dict):
        raise ValueError("headers is not a JSON object")
    for column in ("type", "aggregate_id", "payload"):
        if not getattr(row, column):
            raise ValueError(f"{column} is empty")
    return Envelope(
        id=row.id,
        tenant_id=row.tenant_id,
        aggregate_id=row.aggregate_id,
        type=row.type,
        schema_id=row.schema_id,
        schema_ver=row.schema_ver,
        payload=row.payload.encode(),
        headers={name: value if isinstance(value, str) else json.dumps(value) for name, value in headers.items()},
        ordering_key=row.ordering_key,
        topic=row.topic,
        created_at=row.created_at,
    )


def _as_text(reason: str) -> str:
    """The reason as Postgres takes it: any bus may have put into it what it got from somewhere."""
    return reason.encode(errors="replace").decode().replace("\0", "?")
