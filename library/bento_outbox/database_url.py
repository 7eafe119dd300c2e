"""One form of database address for everything: a libpq URL, as Secrets and DATABASE_URL hold it."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from bento_outbox.errors import MisuseError

FORM = "postgresql://user:password@host:5432/database"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def parse_database_url(text: str) -> URL:
    """The URL for SQLAlchemy's asyncpg driver. Raises MisuseError; the message never repeats the text.

    Of libpq's parameters, `sslmode` is understood.
    """
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):
        # The cause would show the text, and with it the password.
        raise MisuseError(f"the database URL cannot be parsed: its form is {FORM}") from None
    if url.drivername not in ("postgresql", "postgres", "postgresql+asyncpg"):
        raise MisuseError(f"the database URL begins with {url.drivername}://, but only Postgres is supported: {FORM}")
    if not url.host or not url.database:
        raise MisuseError(f"the database URL names no {'host' if not url.host else 'database'}: its form is {FORM}")
    if url.port is not None and not 0 < url.port < 65536:
        raise MisuseError(f"the database URL has port {url.port}, but ports end at 65535: its form is {FORM}")
    return url.set(drivername="postgresql+asyncpg", query=_parameters(url))


def _parameters(url: URL) -> dict[str, str]:
    """The URL's parameters as asyncpg calls them; those it does not know would fail in each connection."""
    parameters = dict(url.query)
    mode = parameters.pop("sslmode", None)
    if parameters:
        raise MisuseError(
            f"the database URL has the parameter {min(parameters)!r}, but only sslmode is supported: "
            f"its form is {FORM}?sslmode=require"
        )
    if mode is None:
        return {}
    if mode not in SSL_MODES:
        raise MisuseError(
            f"the database URL has an unknown sslmode: use one of {', '.join(SSL_MODES)}, as in {FORM}?sslmode=require"
        )
    return {"ssl": str(mode)}
