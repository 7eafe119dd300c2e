"""The database's address for SQLAlchemy."""

from __future__ import annotations

from sqlalchemy import URL

from bento_outbox.database_address import parse_database_address


def parse_database_url(text: str) -> URL:
    """The URL for SQLAlchemy's asyncpg driver. Raises MisuseError; the message never repeats the text."""
    address = parse_database_address(text)
    return URL.create(
        "postgresql+asyncpg",
        username=address.user,
        password=address.password,
        host=address.host,
        port=address.port,
        database=address.database,
        query={} if address.sslmode is None else {"ssl": address.sslmode},
    )
