"""The table in the user's hands: create or upgrade it, check it, or print the SQL.

The revisions run under Alembic with a version table of their own (`<table>_alembic_version`), so that they can
live beside the application's own history. For tables in that history: `bento_outbox.migrations`.

Alembic is imported by the functions that run it: most processes import the library and migrate nothing.
"""

from __future__ import annotations

import asyncio
import io
import shlex
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.errors import SchemaError
from bento_outbox.migrations import protection
from bento_outbox.sql_files import LANE_TABLES, TableName, check_names, quoted_name
from bento_outbox.table import make_outbox_table

if TYPE_CHECKING:
    from alembic.config import Config

OLDEST = (14,)
"""Version of Postgres."""

_UNPROTECTED = text(
    "SELECT EXISTS (SELECT FROM unnest(CAST(:tables AS text[])) AS name WHERE NOT EXISTS ("
    "SELECT FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid AND polname = 'own_tenant' "
    "WHERE pg_class.oid = to_regclass(name) AND relrowsecurity))"
)


_one_at_a_time: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Alembic keeps the migration that runs in a global: two at once, even of two databases, would mix."""


async def apply_schema(
    engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None, row_level_security: bool = False
) -> None:
    """Creates the outbox table or upgrades it, in one transaction. Does nothing when it is up to date.

    row_level_security: turn it on as well, at once or for a table that exists; what is on stays on. From then on roles
    other than the owner see nothing until `bento_outbox.tenant_roles.bind_role` says whose rows are theirs.
    Several processes may do so at once: one does the work, the others wait for it.
    """
    async with _one_at_a_time.setdefault(asyncio.get_running_loop(), asyncio.Lock()), engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('bento_outbox schema'))"))
        await connection.run_sync(lambda sync: _apply(sync, table, schema, row_level_security))


async def validate_schema(
    engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None, row_level_security: bool = False
) -> None:
    """Raises SchemaError when the table is missing or lacks a column that this version needs.

    row_level_security: raise as well when it is off.
    """
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: _validate(sync, table, schema, row_level_security))


def schema_sql(*, table: str = "outbox", schema: str | None = None, row_level_security: bool = False) -> str:
    """The SQL of `apply_schema` for an empty database, for those who run their migrations by hand."""
    from alembic import command

    output = io.StringIO()
    command.upgrade(_config(table, schema, row_level_security, output=output), "head", sql=True)
    return output.getvalue()


def apply_command(table: str, schema: str | None, *, row_level_security: bool = False) -> str:
    """What mends this table, as one types it."""
    options = ["--row-level-security"] if row_level_security else []
    options += ["--table", table] if table != "outbox" else []
    options += ["--schema", schema] if schema else []
    return f"`{shlex.join(['bento-outbox', 'schema', 'apply', *options])}`"


def has_row_level_security(connection: Connection, table: str, schema: str | None) -> bool:
    """Whether row-level security is on, with the policy that this version knows, of each of our tables."""
    names = [quoted_name(TableName(table, schema), beside) for beside in ("", *LANE_TABLES)]
    return not connection.execute(_UNPROTECTED, {"tables": names}).scalar_one()


def _config(
    table: str, schema: str | None, row_level_security: bool = False, *, output: io.StringIO | None = None
) -> Config:
    from alembic.config import Config

    check_names(table, schema)
    config = Config(output_buffer=output) if output is not None else Config()
    config.set_main_option("script_location", "bento_outbox:migrations")
    config.attributes["bento_outbox"] = {"table": table, "schema": schema, "row_level_security": row_level_security}
    return config


def _apply(connection: Connection, table: str, schema: str | None, row_level_security: bool) -> None:
    from alembic import command

    config = _config(table, schema)
    config.attributes["connection"] = connection
    if _lacks(connection, table, schema):
        # It may have been dropped by hand, or not restored, with its history saying that all is done.
        command.stamp(config, "base")
    command.upgrade(config, "head")
    if lacks := _lacks(connection, table, schema):
        raise SchemaError(f"{lacks}, which no migration brings back: add it as `bento-outbox schema sql` has it")
    # Not again where it is on: it locks the table, and every start of an application may come here.
    if row_level_security and not has_row_level_security(connection, table, schema):
        for statement in protection(table, schema):
            connection.execute(text(statement))


def _validate(connection: Connection, table: str, schema: str | None, row_level_security: bool) -> None:
    if lacks := _lacks(connection, table, schema):
        raise SchemaError(f"{lacks}: run {apply_command(table, schema)}")
    if row_level_security and not has_row_level_security(connection, table, schema):
        name = f"{schema}.{table}" if schema else table
        command = apply_command(table, schema, row_level_security=True)
        raise SchemaError(f"row-level security of table {name} is off: run {command}")


def _lacks(connection: Connection, table: str, schema: str | None) -> str | None:
    """What is not there of what this version needs, in words. Raises SchemaError for an older server."""
    if (version := connection.dialect.server_version_info or OLDEST) < OLDEST:
        raise SchemaError(f"the server is Postgres {version[0]}: at least {OLDEST[0]} is needed")
    inspector = inspect(connection)
    metadata = MetaData()
    make_outbox_table(metadata, name=table, schema=schema)
    for wanted in metadata.tables.values():  # the outbox is the first
        name = f"{schema}.{wanted.name}" if schema else wanted.name
        if not inspector.has_table(wanted.name, schema=schema):
            return f"table {name} does not exist"
        found = {column["name"] for column in inspector.get_columns(wanted.name, schema=schema)}
        if missing := set(wanted.columns.keys()) - found:
            return f"table {name} lacks {', '.join(sorted(missing))}"
    index = quoted_name(TableName(table, schema), "_failed_key")
    if connection.execute(text("SELECT to_regclass(:index)"), {"index": index}).scalar_one() is None:
        return f"table {table} lacks the index {table}_failed_key"
    return None
