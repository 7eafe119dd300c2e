"""Requests as they are noted and carried out in the database: `<outbox>_request`, a transaction each call.

A batch and the note of it are one transaction, so what was done is never done again and never counted twice. Of several
pods the one that holds the note works. The filter that holds is the one that was noted when the request was begun.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from bento_outbox.failed_events import BATCH_SIZE, Action, FailedRows, Filter
from bento_outbox.statements import statement
from outbox_projector.database import translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What somebody wants done with failed events. filter: as in the spec, for example {"type": "orders.Placed"}."""

    action: Action
    id: str
    filter: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request is: events that were changed, and when it was completed."""

    events: int
    completed_at: datetime | None = None


def filter_of(tenant_id: str, wanted: Mapping[str, Any]) -> Filter:
    """The filter in the terms of the library. Raises ValueError for what is no time."""

    def moment(name: str) -> datetime | None:
        return datetime.fromisoformat(wanted[name].upper()) if name in wanted else None

    return Filter(
        tenant_id=tenant_id,
        type=wanted.get("type"),
        aggregate_id=wanted.get("aggregateId"),
        error=wanted.get("errorContains"),
        since=moment("createdAfter"),
        until=moment("createdBefore"),
        failed_since=moment("failedAfter"),
        failed_until=moment("failedBefore"),
    )


class RequestStore:
    """Carries out a tenant's requests on its table, a transaction each call. Raises DatabaseUnavailable."""

    def __init__(
        self,
        session_factory: Callable[[], AsyncSession],
        table: Table,
        tenant_id: str,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """batch_size: events a transaction."""
        self._session_factory = session_factory
        self._tenant_id = tenant_id
        self._batch_size = batch_size
        self._failed = FailedRows(table)
        self._sql = {name: statement(__package__, "requests.sql", name, table) for name in ("begin", "hold", "advance")}

    async def begin(self, request: Request) -> None:
        """Notes the request, if nobody has. Raises ValueError when its filter makes no sense."""
        filter_of(self._tenant_id, request.filter)
        async with translated(), self._session_factory() as session, session.begin():
            await session.execute(self._sql["begin"], self._key(request) | {"filter": json.dumps(dict(request.filter))})

    async def batch(self, request: Request) -> Progress | None:
        """The next batch of a request that was begun, if it is not completed; None if another pod is at it."""
        async with translated(), self._session_factory() as session, session.begin():
            noted = (await session.execute(self._sql["hold"], self._key(request))).one_or_none()
            if noted is None:
                return None
            if noted.completed_at is not None:
                return Progress(events=noted.events, completed_at=noted.completed_at)
            return await self._advance(await session.connection(), request, noted)

    async def _advance(self, connection: AsyncConnection, request: Request, noted: Any) -> Progress:
        wanted = filter_of(self._tenant_id, json.loads(noted.filter))
        if request.action == "discard":
            # Nobody can have meant an event that failed later.
            wanted = replace(wanted, failed_until=min(wanted.failed_until or noted.begun_at, noted.begun_at))
        found = await self._failed.find(
            connection,
            wanted,
            after=noted.after_seq,
            through=noted.through_seq,
            limit=self._batch_size,
        )
        ids = [event.id for event in found]
        values = {
            "after_seq": found[-1].seq if found else noted.after_seq,
            "changed": await self._failed.change(connection, request.action, self._tenant_id, ids),
            "over": len(found) < self._batch_size,
        }
        advanced = (await connection.execute(self._sql["advance"], self._key(request) | values)).one()
        return Progress(events=advanced.events, completed_at=advanced.completed_at)

    def _key(self, request: Request) -> dict[str, Any]:
        return {"tenant_id": self._tenant_id, "action": request.action, "request_id": request.id}
