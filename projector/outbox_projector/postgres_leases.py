"""Who owns which lane, in Postgres: `Leases`. Its SQL: `leases.sql`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, Table
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox.statements import named_statements, statement
from bento_outbox.waking import channel_of
from outbox_projector.database import autocommitting, translated
from outbox_projector.flights import Lease
from outbox_projector.sharing import Fleet

MOST_LANES = 64
MEMBER_SECONDS = 10.0
"""A process that was not heard of for so long is not counted when lanes are shared. What it owns is its own until the
leases run out."""


class PostgresLeases:
    """The lanes of one tenant, and the processes that share them."""

    def __init__(
        self, session_factory: Callable[[], AsyncSession], table: Table, *, tenant_id: str, name: str, lanes: int
    ) -> None:
        """name: of this process, no other's at the same time. lanes: how many this process wants, 1 to 64."""
        if not 1 <= lanes <= MOST_LANES:
            raise ValueError(f"lanes is {lanes}, but a tenant has from 1 to {MOST_LANES}")
        self._session_factory = session_factory
        self._tenant = {"tenant_id": tenant_id}
        self._me = {**self._tenant, "name": name}
        self._lanes = lanes
        self._channel = channel_of(table, tenant_id)
        self._told = False
        self._sql = {key: statement(__package__, "leases.sql", key, table) for key in _statements()}

    async def beat(self) -> Fleet | None:
        values = {**self._me, "wanted": self._lanes, "member_seconds": MEMBER_SECONDS}
        async with translated(), autocommitting(self._session_factory) as session:
            row = (await session.execute(self._sql["beat"], values)).one()
            if not self._told:
                # Others may rest for long, since they know of nobody to share with.
                await session.execute(self._sql["tell"], {"channel": self._channel})
                self._told = True
        # Another member has made the layout at this very moment, and this statement cannot see it yet.
        return None if row.lanes is None else Fleet(**row._mapping)

    async def acquire(self, lane: int, *, seconds: float) -> Lease | None:
        row = await self._one("acquire", {**self._me, "lane": lane, "lease_seconds": seconds})
        return None if row is None else Lease(lane=lane, lanes=row.lanes, epoch=row.epoch)

    async def release(self, lease: Lease) -> bool:
        return await self._one("release", {**self._tenant, "lane": lease.lane, "epoch": lease.epoch}) is not None

    async def change(self, lanes: int) -> bool:
        async with translated(), self._session_factory() as session, session.begin():
            await session.execute(self._sql["close_layout"], self._tenant)
            await session.execute(self._sql["revoke"], self._tenant)
            # A statement of its own: it sees the flights of the turns that were waited for.
            changed = await session.execute(self._sql["change_layout"], {**self._tenant, "lanes": lanes})
            if changed.scalar() is None:
                await session.rollback()
                return False
            return True

    async def leave(self) -> None:
        async with translated(), self._session_factory() as session, session.begin():
            await session.execute(self._sql["leave"], self._me)

    async def _one(self, name: str, values: dict[str, Any]) -> Row[Any] | None:
        async with translated(), self._session_factory() as session, session.begin():
            return (await session.execute(self._sql[name], values)).one_or_none()


def _statements() -> list[str]:
    return list(named_statements(__package__, "leases.sql"))
