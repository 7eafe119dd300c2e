"""The table in the user's hands: create or upgrade it, check it, or print the SQL.

The revisions run under Alembic with a version table of their own (`<table>_alembic_version`), so that they can
live beside the application's own history.
"""

from __future__ import annotations

import asyncio
import io
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.errors import MisuseError, SchemaError
from bento_outbox.table import make_outbox_table

LONGEST_NAME = 63 - len("_alembic_version_pkc")
"""Bytes; the longest name made of the table's must be one that Postgres takes."""


_one_at_a_time: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Alembic keeps the migration that runs in a global: two at once, even of two databases, would mix."""


async def apply_schema(engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None) -> None:
    """Creates the outbox table or upgrades it, in one transaction. Does nothing when it is up to date.

    Several processes may do so at once: one does the work, the others wait for it.
    """
    async with _one_at_a_time.setdefault(asyncio.get_running_loop(), asyncio.Lock()), engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('bento_outbox schema'))"))
        await connection.run_sync(lambda sync: _apply(sync, table, schema))


async def validate_schema(engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None) -> None:
    """Raises SchemaError when the table is missing or lacks a column that this version needs."""
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: _validate(sync, table, schema))


def schema_sql(*, table: str = "outbox", schema: str | None = None) -> str:
    """The SQL of `apply_schema` for an empty database, for those who run their migrations by hand."""
    output = io.StringIO()
    config = _config(table, schema, output=output)
    command.upgrade(config, "head", sql=True)
    return output.getvalue()


def _config(table: str, schema: str | None, *, output: io.StringIO | None = None) -> Config:
    if len(table.encode()) > LONGEST_NAME:
        raise MisuseError(f"the table name {table!r} is too long: at most {LONGEST_NAME} bytes")
    config = Config(output_buffer=output) if output is not None else Config()
    config.set_main_option("script_location", "bento_outbox:migrations")
    config.attributes |= {"table": table, "schema": schema}
    return config


def _apply(connection: Connection, table: str, schema: str | None) -> None:
    config = _config(table, schema)
    config.attributes["connection"] = connection
    if not inspect(connection).has_table(table, schema=schema):
        # It may have been dropped by hand, with its history still saying that all is done.
        command.stamp(config, "base")
    command.upgrade(config, "head")


def _validate(connection: Connection, table: str, schema: str | None) -> None:
    name = f"{schema}.{table}" if schema else table
    inspector = inspect(connection)
    if not inspector.has_table(table, schema=schema):
        raise SchemaError(f"table {name} does not exist: run `bento-outbox schema apply`")
    wanted = make_outbox_table(MetaData(), name=table, schema=schema).columns
    missing = set(wanted.keys()) - {column["name"] for column in inspector.get_columns(table, schema=schema)}
    if missing:
        raise SchemaError(f"table {name} lacks {', '.join(sorted(missing))}: run `bento-outbox schema apply`")
