"""Rows of the outbox table by plain SQL: as a foreign writer inserts them, and as they are in the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Table, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox import Envelope
from bento_outbox.rows import writer_of
from bento_outbox.table import outbox_table, quoted

JSON_COLUMNS = {"payload", "headers"}
NOTHING: Mapping[str, str] = MappingProxyType({})


async def write(session: AsyncSession, *envelopes: Envelope, table: Table = outbox_table) -> None:
    """Rows as the library writes them, in the session's transaction."""
    writer = writer_of(table)
    await session.run_sync(lambda sync: writer(sync.connection(), envelopes, [0.0] * len(envelopes)))


class Rows:
    """One tenant's rows."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], tenant: str, table: Table = outbox_table) -> None:
        self.tenant = tenant
        self._sessions = sessions
        self._table = quoted(table)

    async def insert(self, *, sql: Mapping[str, str] = NOTHING, **columns: Any) -> UUID:
        """One committed row with the bare columns and those given; `sql` has columns whose value is an expression."""
        values = {
            "tenant_id": self.tenant,
            "aggregate_id": "order-1",
            "type": "orders.Placed",
            "payload": {"total": 12},
        }
        values |= columns
        for name in JSON_COLUMNS & values.keys():
            values[name] = json.dumps(values[name])
        parts = {name: f"CAST(:{name} AS jsonb)" if name in JSON_COLUMNS else f":{name}" for name in values} | sql
        statement = f"INSERT INTO {self._table} ({', '.join(parts)}) VALUES ({', '.join(parts.values())}) RETURNING id"
        async with self._sessions.begin() as session:
            inserted: UUID = (await session.execute(text(statement), values)).scalar_one()
        return inserted

    async def insert_many(self, count: int, *, aggregates: int = 1) -> list[UUID]:
        """Many rows in one statement; payload {"n": 1…count}, in order."""
        statement = text(
            f"INSERT INTO {self._table} (tenant_id, aggregate_id, type, payload) "
            "SELECT :tenant_id, 'order-' || n % :aggregates, 'orders.Placed', jsonb_build_object('n', n) "
            "FROM generate_series(1, :count) AS n RETURNING id"
        )
        values = {"tenant_id": self.tenant, "aggregates": aggregates, "count": count}
        async with self._sessions.begin() as session:
            return list((await session.execute(statement, values)).scalars())

    async def all(self) -> list[Row[Any]]:
        """All rows with all columns, in the order of insertion."""
        return await self._select("*")

    async def statuses(self) -> list[str]:
        """The status of each row, in the order of insertion."""
        return [row.status for row in await self._select("status")]

    async def count(self, status: str) -> int:
        """How many rows have this status."""
        statement = text(f"SELECT count(*) FROM {self._table} WHERE tenant_id = :tenant AND status = :status")
        async with self._sessions() as session:
            found: int = (await session.execute(statement, {"tenant": self.tenant, "status": status})).scalar_one()
        return found

    async def change(self, assignments: str) -> None:
        """UPDATE of all rows; `assignments` is SQL."""
        async with self._sessions.begin() as session:
            await session.execute(
                text(f"UPDATE {self._table} SET {assignments} WHERE tenant_id = :tenant"), {"tenant": self.tenant}
            )

    async def _select(self, what: str) -> list[Row[Any]]:
        async with self._sessions() as session:
            statement = text(f"SELECT {what} FROM {self._table} WHERE tenant_id = :tenant ORDER BY seq")
            return list((await session.execute(statement, {"tenant": self.tenant})).all())
