"""One form of database address for everything: a libpq URL, as Secrets and DATABASE_URL hold it."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from bento_outbox.errors import MisuseError

FORM = "postgresql://user:password@host:5432/database"


def parse_database_url(text: str) -> URL:
    """The URL for SQLAlchemy's asyncpg driver. Raises MisuseError; the message never repeats the text."""
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):
        # The cause would show the text, and with it the password.
        raise MisuseError(f"the database URL cannot be parsed: its form is {FORM}") from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+asyncpg"):
        raise MisuseError(f"the database URL begins with {url.drivername}://, but only Postgres is supported: {FORM}")
    if not url.host or not url.database:
        raise MisuseError(f"the database URL names no {'host' if not url.host else 'database'}: its form is {FORM}")
    return url.set(drivername="postgresql+asyncpg")
