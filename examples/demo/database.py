"""The demo's own database, and what its outbox holds, asked from Postgres itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg

NAME = "bento_outbox_demo"
LARGEST_MESSAGE_BYTES = 5 * 1024 * 1024
"""The broker's default limit, `maxMessageSize`."""


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection for the length of the block."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def create_anew(server_url: str) -> str:
    """Makes an empty database beside the one of `server_url`, which is not touched. Returns its URL."""
    async with connected(server_url) as connection:
        await connection.execute(f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {NAME}")
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{NAME}"))


async def event_statuses(url: str, tenant: str) -> dict[str, str]:
    """Every event of the tenant: its id and its status."""
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT id::text, status FROM outbox WHERE tenant_id = $1", tenant)
    return {row["id"]: row["status"] for row in rows}


async def write_poison(url: str, tenant: str) -> None:
    """An event larger than any message the broker takes. Plain SQL, as any writer may."""
    async with connected(url) as connection:
        await connection.execute(
            "INSERT INTO outbox (tenant_id, aggregate_id, type, payload)"
            " VALUES ($1, 'catalogue', 'orders.CatalogueExported', jsonb_build_object('pages', repeat('x', $2)))",
            tenant,
            LARGEST_MESSAGE_BYTES + 1,
        )
