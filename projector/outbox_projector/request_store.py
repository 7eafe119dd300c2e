"""Requests as they are noted and carried out in the database: `<outbox>_request`, a transaction each call.

A batch and the note of it are one transaction, so what was done is never done again and never counted twice. Of several
pods the one that holds the note works. The filter that holds is the one that was noted when the request was begun.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from bento_outbox.channels import channel_of
from bento_outbox.failed_filter import BATCH_SIZE, Action, Filter
from bento_outbox.headers import REQUEUED_AT
from bento_outbox.sql_files import Named
from outbox_projector.database import Connect, transaction
from outbox_projector.sql import statements


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
        connect: Connect,
        table: Named,
        tenant_id: str,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """batch_size: events a transaction."""
        self._connect = connect
        self._tenant_id = tenant_id
        self._batch_size = batch_size
        self._channel = channel_of(table, tenant_id)
        self._sql = statements(__package__, "requests.sql", table)
        self._failed = statements("bento_outbox", "failed_events.sql", table)

    async def begin(self, request: Request) -> None:
        """Notes the request, if nobody has. Raises ValueError when its filter makes no sense."""
        filter_of(self._tenant_id, request.filter)
        async with transaction(self._connect) as connection:
            values = self._key(request) | {"filter": json.dumps(dict(request.filter))}
            await self._sql["begin"].run(connection, values)

    async def batch(self, request: Request) -> Progress | None:
        """The next batch of a request that was begun, if it is not completed; None if another pod is at it."""
        async with transaction(self._connect) as connection:
            noted = await self._sql["hold"].row(connection, self._key(request))
            if noted is None:
                return None
            if noted["completed_at"] is not None:
                return Progress(events=noted["events"], completed_at=noted["completed_at"])
            return await self._advance(connection, request, noted)

    async def _advance(self, connection: asyncpg.Connection, request: Request, noted: asyncpg.Record) -> Progress:
        wanted = filter_of(self._tenant_id, json.loads(noted["filter"]))
        if request.action == "discard":
            # Nobody can have meant an event that failed later.
            begun_at = noted["begun_at"]
            wanted = replace(wanted, failed_until=min(wanted.failed_until or begun_at, begun_at))
        pages = wanted.values(after=noted["after_seq"], through=noted["through_seq"], limit=self._batch_size)
        found = await self._failed["find"].rows(connection, pages)
        values = {
            "after_seq": found[-1]["seq"] if found else noted["after_seq"],
            "changed": await self._change(connection, request.action, [row["id"] for row in found]),
            "over": len(found) < self._batch_size,
        }
        (advanced,) = await self._sql["advance"].rows(connection, self._key(request) | values)
        return Progress(events=advanced["events"], completed_at=advanced["completed_at"])

    async def _change(self, connection: asyncpg.Connection, action: Action, ids: Sequence[UUID]) -> int:
        """Requeues or discards them. Returns how many were still ERR."""
        values = {"tenant_id": self._tenant_id, "ids": ids, "header": REQUEUED_AT}
        changed = await self._failed[action].run(connection, values)
        if changed:
            await self._failed["wake"].run(connection, {"channel": self._channel})
        return changed

    def _key(self, request: Request) -> dict[str, Any]:
        return {"tenant_id": self._tenant_id, "action": request.action, "request_id": request.id}
