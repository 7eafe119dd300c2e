"""One form of database address for everything: a libpq URL, as Secrets and DATABASE_URL hold it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from bento_outbox.errors import MisuseError

FORM = "postgresql://user:password@host:5432/database"
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg", "postgresql+psycopg2")

# No reader of web addresses: a password may hold / ? # or : as they are, so the last @ before the host ends it.
_URL = re.compile(
    r"(?P<scheme>[\w+]+)://(?:(?P<user>[^:/@]*)(?::(?P<password>.*))?@)?"
    r"(?:\[(?P<address>[^\]/@]+)\]|(?P<host>[^:/?@]*))(?::(?P<port>[0-9]*))?(?:/(?P<database>[^?@]*))?(?:\?(?P<query>[^@]*))?"
)


@dataclass(frozen=True, slots=True)
class DatabaseAddress:
    """Where a database is and how to log in. sslmode: as libpq's, None if the URL has none."""

    host: str
    database: str
    port: int | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sslmode: str | None = None


def parse_database_address(text: str) -> DatabaseAddress:
    """The parts of the URL. Raises MisuseError; the message never repeats the text.

    Of libpq's parameters, `sslmode` is understood.
    """
    found = _URL.fullmatch(text.strip())
    if found is None:
        raise MisuseError(f"the database URL cannot be parsed: its form is {FORM}")
    if found["scheme"] not in _SCHEMES:
        raise MisuseError(f"the database URL begins with {found['scheme']}://, but only Postgres is supported: {FORM}")
    host, database = found["address"] or unquote(found["host"]), unquote(found["database"] or "")
    if not host or not database:
        raise MisuseError(f"the database URL names no {'database' if host else 'host'}: its form is {FORM}")
    if not _is_host(host):
        raise MisuseError(f"the database URL names a host that can be none: its form is {FORM}")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 65536:
        raise MisuseError(f"the database URL has port {port}, but ports end at 65535: its form is {FORM}")
    user, password = found["user"], found["password"]
    return DatabaseAddress(
        host=host,
        database=database,
        port=port,
        user=unquote(user) if user else None,
        password=None if password is None else unquote(password),
        sslmode=_sslmode(found["query"] or ""),
    )


def _is_host(host: str) -> bool:
    """Whether it can be looked up, or is the folder of a socket."""
    try:
        return host.startswith("/") or bool(host.encode("idna"))
    except UnicodeError:
        return False


def _sslmode(query: str) -> str | None:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    mode = parameters.pop("sslmode", None)
    if parameters:
        raise MisuseError(
            f"the database URL has the parameter {min(parameters)!r}, but only sslmode is supported: "
            f"its form is {FORM}?sslmode=require"
        )
    if mode is not None and mode not in SSL_MODES:
        raise MisuseError(
            f"the database URL has an unknown sslmode: use one of {', '.join(SSL_MODES)}, as in {FORM}?sslmode=require"
        )
    return mode
