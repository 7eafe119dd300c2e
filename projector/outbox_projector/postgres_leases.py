"""Who owns which lane, in Postgres: `Leases`. Its SQL: `leases.sql`."""

from __future__ import annotations

import os
import socket
from typing import Any

import asyncpg

from bento_outbox.channels import channel_of
from bento_outbox.sql_files import Named
from outbox_projector.database import Connect, connected, transaction
from outbox_projector.flights import Lease
from outbox_projector.sharing import Fleet
from outbox_projector.sql import statements

MOST_LANES = 64
MEMBER_SECONDS = 10.0
"""A process that was not heard of for so long is not counted when lanes are shared. What it owns is its own until the
leases run out."""


def this_process() -> str:
    """A name among the processes that share a tenant's lanes. A pod's first process keeps it over its restarts."""
    return f"{socket.gethostname()}/{os.getpid()}"


class PostgresLeases:
    """The lanes of one tenant, and the processes that share them."""

    def __init__(self, connect: Connect, table: Named, *, tenant_id: str, name: str, lanes: int) -> None:
        """name: of this process, no other's at the same time. lanes: how many this process wants, 1 to 64."""
        if not 1 <= lanes <= MOST_LANES:
            raise ValueError(f"lanes is {lanes}, but a tenant has from 1 to {MOST_LANES}")
        self._connect = connect
        self._tenant = {"tenant_id": tenant_id}
        self._me = {**self._tenant, "name": name}
        self._lanes = lanes
        self._channel = channel_of(table, tenant_id)
        self._told = False
        self._sql = statements(__package__, "leases.sql", table)

    async def beat(self) -> Fleet | None:
        values = {**self._me, "wanted": self._lanes, "member_seconds": MEMBER_SECONDS}
        async with connected(self._connect) as connection:
            (row,) = await self._sql["beat"].rows(connection, values)
            if not self._told:
                # Others may rest for long, since they know of nobody to share with.
                await self._sql["tell"].run(connection, {"channel": self._channel})
                self._told = True
        # Another member has made the layout at this very moment, and this statement cannot see it yet.
        return None if row["lanes"] is None else Fleet(**row)

    async def acquire(self, lane: int, *, seconds: float) -> Lease | None:
        row = await self._one("acquire", {**self._me, "lane": lane, "lease_seconds": seconds})
        return None if row is None else Lease(lane=lane, **row)

    async def release(self, lease: Lease) -> bool:
        return await self._one("release", {**self._tenant, "lane": lease.lane, "epoch": lease.epoch}) is not None

    async def change(self, lanes: int) -> bool:
        try:
            async with transaction(self._connect) as connection:
                await self._sql["close_layout"].run(connection, self._tenant)
                await self._sql["revoke"].run(connection, self._tenant)
                # A statement of its own: it sees the flights of the turns that were waited for.
                changed = await self._sql["change_layout"].value(connection, {**self._tenant, "lanes": lanes})
                if changed is None:
                    raise _NotYet
        except _NotYet:
            return False
        return True

    async def leave(self) -> None:
        async with connected(self._connect) as connection:
            await self._sql["leave"].run(connection, self._me)

    async def _one(self, name: str, values: dict[str, Any]) -> asyncpg.Record | None:
        async with connected(self._connect) as connection:
            return await self._sql[name].row(connection, values)


class _NotYet(Exception):
    """Undoes a change of the layout."""
