"""What the commands of `bento-outbox` have in common: their options, and errors in one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import asyncpg
import click
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bento_outbox.database_url import parse_database_url
from bento_outbox.errors import OutboxError

_R = TypeVar("_R")

database_url = click.option(
    "--database-url",
    envvar="DATABASE_URL",
    required=True,
    help="postgresql://user:password@host:5432/database",
    show_envvar=True,
)
table_name = click.option("--table", default="outbox", show_default=True, help="Name of the outbox table.")
schema_name = click.option("--schema", default=None, help="Its schema; default: the first of the search path.")

_WAYS_OUT: dict[str | None, str] = {
    "42P01": ": run `bento-outbox schema apply`, or name the table with --table and --schema",
    "42501": ": use the owner of the table, or a role that `bento-outbox tenants bind` lets do this",
}
"""By SQLSTATE."""


def on_database(url: str, action: Callable[[AsyncEngine], Awaitable[_R]]) -> _R:
    """Runs `action`; what goes wrong with the database or its use ends the command with one sentence."""

    async def run() -> _R:
        address = parse_database_url(url)
        engine = create_async_engine(address)
        try:
            with _refusals(f"{address.host}:{address.port or 5432}"):
                return await action(engine)
        finally:
            await engine.dispose()

    with one_sentence():
        return asyncio.run(run())


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the command with the cause, not with a traceback."""
    try:
        yield
    except OutboxError as error:
        raise click.ClickException(str(error)) from error


@contextmanager
def _refusals(place: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, asyncpg.PostgresError, OSError) as error:  # SQLAlchemy 2.0 passes on what a connect raises
        cause = getattr(error, "orig", None) or error
        sentence = str(cause).splitlines()[0] + _WAYS_OUT.get(getattr(cause, "sqlstate", None), "")
        raise click.ClickException(f"the database at {place} refused or could not be reached: {sentence}") from error
