"""A database of a benchmark's own, with the outbox table and rows to deliver."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from bento_outbox.database_url import parse_database_url
from bento_outbox.schema import apply_schema

TENANT = "bench"

ROWS = """
INSERT INTO outbox (id, tenant_id, aggregate_id, type, schema_id, schema_ver, payload)
SELECT {id}, %(tenant)s, 'aggregate-' || n %% %(aggregates)s, 'bench.OrderPlaced', 'bench.OrderPlaced', 1,
       jsonb_build_object('number', n, 'note', {note})
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n
"""
RISING_ID = """
CAST(encode(overlay(uuid_send(gen_random_uuid()) PLACING substring(
    int8send(CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)) FROM 3) FROM 1 FOR 6), 'hex') AS uuid)
"""
"""As the library gives them: milliseconds first, then random bits (but for the number of the version)."""
FLAT = "repeat('x', %(bytes)s)"
"""Text of one letter: what a payload holds makes no difference where nothing is compressed."""
VARIED = (
    "left((SELECT string_agg(md5(n::text || part), ' ') FROM generate_series(0, %(bytes)s / 33) AS part), %(bytes)s)"
)
"""Hexadecimal digits: about as much can be made of them by compression as of identifiers."""
AROUND_NOTE = 32
"""Bytes of a payload besides its note, as `payload::text` has them, for numbers of six digits."""


class Database:
    """Its name is new; `connection` commits each statement."""

    def __init__(self, url: str, connection: psycopg.Connection) -> None:
        self.url = url
        self.connection = connection

    @property
    def name(self) -> str:
        return urlsplit(self.url).path.removeprefix("/")

    def insert(
        self,
        rows: int,
        *,
        first: int = 1,
        payload_bytes: int = 300,
        aggregates: int = 1000,
        tenant: str = TENANT,
        varied: bool = False,
        rows_a_transaction: int = 1_000_000,
    ) -> None:
        """Rows that wait, one after the other over all aggregates; `number` in the payload counts from `first`."""
        statement = ROWS.format(id=RISING_ID, note=VARIED if varied else FLAT)
        for start in range(first, first + rows, rows_a_transaction):
            values = {
                "tenant": tenant,
                "aggregates": aggregates,
                "first": start,
                "last": min(start + rows_a_transaction, first + rows) - 1,
                "bytes": max(1, payload_bytes - AROUND_NOTE),
            }
            self.connection.execute(statement, values)

    def empty(self) -> None:
        """No rows, and nothing known of any lane."""
        self.connection.execute("TRUNCATE outbox, outbox_lane, outbox_stream, outbox_flight RESTART IDENTITY")

    def rewind(self) -> None:
        """All rows wait again."""
        self.connection.execute("UPDATE outbox SET status = 'NEW', sent_at = NULL WHERE status <> 'NEW'")
        self.connection.execute("TRUNCATE outbox_lane, outbox_stream, outbox_flight RESTART IDENTITY")
        self.settle_down()

    def settle_down(self) -> None:
        """What inserting the rows has left for later is done now, so that no drain pays for it."""
        self.connection.execute("VACUUM (ANALYZE) outbox")
        self.connection.execute("CHECKPOINT")

    def value(self, query: LiteralString, *values: object) -> Any:
        """The one value of a query."""
        found = self.connection.execute(query, values).fetchone()
        assert found is not None
        return found[0]


@contextmanager
def own_database() -> Iterator[Database]:
    """Dropped afterwards."""
    server = os.environ["DATABASE_URL"]
    name = f"bench_{uuid4().hex[:12]}"
    url = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    with psycopg.connect(server, autocommit=True) as administration:
        administration.execute(f"CREATE DATABASE {name}")
        try:
            asyncio.run(_apply(url))
            with psycopg.connect(url, autocommit=True) as connection:
                yield Database(url, connection)
        finally:
            administration.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _apply(url: str) -> None:
    engine = create_async_engine(parse_database_url(url), poolclass=NullPool)
    await apply_schema(engine)
    await engine.dispose()
