"""`bento-outbox`: the outbox table from the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import click
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bento_outbox import __version__
from bento_outbox import schema as schema_module
from bento_outbox.database_url import parse_database_url
from bento_outbox.errors import OutboxError

database_url = click.option(
    "--database-url",
    envvar="DATABASE_URL",
    required=True,
    help="postgresql://user:password@host:5432/database",
    show_envvar=True,
)
table_name = click.option("--table", default="outbox", show_default=True, help="Name of the outbox table.")
schema_name = click.option("--schema", default=None, help="Its schema; default: the first of the search path.")


@click.group()
@click.version_option(__version__, prog_name="bento-outbox")
def main() -> None:
    """The outbox table: create it, check it, look after it."""


@main.group("schema")
def schema_group() -> None:
    """Create or upgrade the outbox table, check it, or print its SQL."""


@schema_group.command()
@database_url
@table_name
@schema_name
def apply(database_url: str, table: str, schema: str | None) -> None:
    """Create the outbox table, or upgrade it. Safe to run again."""
    _run(database_url, lambda engine: schema_module.apply_schema(engine, table=table, schema=schema))
    click.echo(f"table {table} is up to date")


@schema_group.command()
@database_url
@table_name
@schema_name
def check(database_url: str, table: str, schema: str | None) -> None:
    """Say whether the table is what this version needs; exit code 1 if it is not."""
    _run(database_url, lambda engine: schema_module.validate_schema(engine, table=table, schema=schema))
    click.echo(f"table {table} is what version {__version__} needs")


@schema_group.command()
@table_name
@schema_name
def sql(table: str, schema: str | None) -> None:
    """Print the SQL that creates the table, for those who migrate by hand."""
    click.echo(schema_module.schema_sql(table=table, schema=schema))


def _run(url: str, action: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    async def run() -> None:
        engine = create_async_engine(parse_database_url(url))
        try:
            await action(engine)
        finally:
            await engine.dispose()

    try:
        asyncio.run(run())
    except OutboxError as error:
        raise click.ClickException(str(error)) from error
    except (DBAPIError, OSError) as error:
        cause = getattr(error, "orig", None) or error
        raise click.ClickException(f"the database refused or could not be reached: {cause}") from error
