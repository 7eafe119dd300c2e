"""The outbox table as the projector sees it: refuse, measure. Each call is one statement of `queries.sql`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from bento_outbox import Envelope, Refusal
from bento_outbox.sql_files import Named
from bento_outbox.stored_text import LONGEST_TOPIC
from outbox_projector.database import Connect, connected, transaction
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.policies import Retries
from outbox_projector.sql import statements

COUNT_LIMIT = 100_000
"""Pending and failed rows are counted exactly up to here; the figure is a lower bound beyond."""

_NO_HEADERS = (None, "", "{}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits (NEW) and what failed (ERR); `oldest_seconds` is the age of the oldest NEW row, 0 if none.

    uncounted: why what waits could not be counted; then `pending` is 1, for the one that was seen.
    """

    pending: int
    errors: int
    oldest_seconds: float
    uncounted: str = ""

    @property
    def pending_is_lower_bound(self) -> bool:
        return self.pending >= COUNT_LIMIT or self.uncounted != ""


class Store:
    """Statements on one tenant's rows, each on the connection it is given."""

    def __init__(self, table: Named, tenant_id: str) -> None:
        self._tenant_id = tenant_id
        self._sql = statements(__package__, "queries.sql", table)

    async def mark_refused(
        self,
        connection: asyncpg.Connection,
        refused: Mapping[UUID, Refusal],
        counts: Mapping[UUID, int],
        retries: Retries,
    ) -> int:
        """NEW → NEW, later; or NEW → ERR. Returns how many became ERR."""
        if not refused:
            return 0
        rows = await self._sql["mark_refused"].rows(
            connection,
            {
                "ids": list(refused),
                "reasons": [_as_text(refusal.reason) for refusal in refused.values()],
                "permanent": [refusal.permanent for refusal in refused.values()],
                "waits": [retries.wait(counts[event_id] + 1) for event_id in refused],
                "max_retries": retries.maximum,
            },
        )
        return sum(row["status"] == "ERR" for row in rows)

    async def measure(self, connect: Connect) -> Backlog:
        """Counts what waits and what failed. One statement when nothing waits, else a short transaction besides.

        Raises DatabaseUnavailable when not even the first look can be had.
        """
        values: dict[str, Any] = {"tenant_id": self._tenant_id, "count_limit": COUNT_LIMIT}
        async with connected(connect) as connection:
            (look,) = await self._sql["look"].rows(connection, values)
        pending, uncounted = 0, ""
        if look["oldest_seq"] is not None:
            try:
                pending = await self._count(connect, {**values, "oldest_seq": look["oldest_seq"]})
            except DatabaseUnavailable as error:  # such as a limit of the role's for the time of a statement
                pending, uncounted = 1, str(error)
        # What was there at the first look may be delivered before the second.
        oldest_seconds = float(look["oldest_seconds"]) if pending else 0.0
        return Backlog(pending=pending, errors=look["errors"], oldest_seconds=oldest_seconds, uncounted=uncounted)

    async def _count(self, connect: Connect, values: Mapping[str, Any]) -> int:
        async with transaction(connect) as connection:
            await self._sql["in_order"].run(connection, {})
            pending: int = await self._sql["count_pending"].value(connection, values)
        return pending


def read_row(row: asyncpg.Record) -> Envelope:
    """The row as an envelope; its first columns are those of an event, in the order of `lanes.sql`.

    Raises ValueError: other writers than our library may insert what they like.

    A table that was made by an older version may hold NULL wherever its writer left something out.
    """
    # Columns by name would cost as much as all the rest.
    (event_id, tenant_id, aggregate_id, event_type, schema_id, schema_ver, payload, headers, ordering_key, topic) = row[
        :10
    ]
    if not (event_type and aggregate_id and payload):
        required = {"type": event_type, "aggregate_id": aggregate_id, "payload": payload}
        raise ValueError(f"{next(column for column, value in required.items() if not value)} is empty")
    if len(event_type) > LONGEST_TOPIC or (topic and len(topic) > LONGEST_TOPIC):
        raise ValueError(f"topic or type has more than {LONGEST_TOPIC} characters")
    return Envelope(
        id=event_id,
        tenant_id=tenant_id,
        aggregate_id=aggregate_id,
        type=event_type,
        schema_id=schema_id,
        schema_ver=schema_ver,
        payload=payload.encode(),
        headers={} if headers in _NO_HEADERS else _headers(headers),
        ordering_key=ordering_key,
        topic=topic,
        created_at=row["created_at"],
    )


def _headers(text: str) -> dict[str, str]:
    headers = json.loads(text)
    if not isinstance(headers, dict):
        raise ValueError("headers is not a JSON object")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in headers.items()}


def _as_text(reason: str) -> str:
    """The reason as Postgres takes it: any bus may have put into it what it got from somewhere."""
    return reason.encode(errors="replace").decode().replace("\0", "?")
