"""SQL lives in `.sql` files, a statement a block; this puts the configured tables in the place of `outbox…`.

Nothing here needs SQLAlchemy: the projector, which runs once for each tenant, does without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Protocol

from bento_outbox.errors import MisuseError

LANE_TABLES = ("_layout", "_member", "_lane", "_stream", "_flight", "_request")
"""What follows the outbox's name in the names of the projector's own tables."""

_TABLE = re.compile(rf"\b(FROM|UPDATE|INTO) outbox({'|'.join(LANE_TABLES)})?\b( AS \w+)?")
_PARAMETER = re.compile(r"(?<![:\w]):(\w+)")

LONGEST_NAME = 63 - len("_alembic_version_pkc")
"""Bytes. Names made of the table's are longer, and what Postgres cuts off may be all that tells two of them apart."""


class Named(Protocol):
    """An outbox table as statements know it: a `TableName`, or a SQLAlchemy table."""

    @property
    def name(self) -> str: ...
    @property
    def schema(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class TableName:
    """What the outbox table is called. schema: None for the first of the search path. Raises MisuseError."""

    name: str = "outbox"
    schema: str | None = None

    def __post_init__(self) -> None:
        check_names(self.name, self.schema)


def check_names(table: str, schema: str | None) -> None:
    """Raises MisuseError when the tables could not be called so."""
    if not table or len(table.encode()) > LONGEST_NAME:
        raise MisuseError(f"the table name {table!r} is too {'long' if table else 'short'}: 1 to {LONGEST_NAME} bytes")
    if schema == "":
        raise MisuseError("the name of the schema is empty: leave it away for the first schema of the search path")


@cache
def named_statements(package: str, file: str) -> dict[str, str]:
    """The statements of a file by the names above them, as they are there."""
    source = files(package).joinpath(file).read_text()
    parts = re.split(r"^-- name: (\w+)$", source, flags=re.MULTILINE)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def with_tables(sql: str, quoted: Callable[[str], str]) -> str:
    """The statement with other tables; names without an alias stay as aliases, whatever the tables are called.

    quoted: the table that the outbox's name with this suffix stands for, as SQL writes it.
    """

    def aliased(found: re.Match[str]) -> str:
        suffix = found[2] or ""
        return f"{found[1]} {quoted(suffix)}{found[3] or f' AS outbox{suffix}'}"

    return _TABLE.sub(aliased, sql)


def quoted_name(table: Named, suffix: str = "") -> str:
    """The table's name with its schema, each part in quotes."""
    parts = [part for part in (table.schema, table.name + suffix) if part is not None]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


@dataclass(frozen=True, slots=True)
class Numbered:
    """A statement with the parameters $1, $2, …; `parameters` are their names in the file, in this order."""

    sql: str
    parameters: tuple[str, ...]


def numbered(package: str, file: str, name: str, table: Named) -> Numbered:
    """The statement below `-- name: name`, as Postgres takes it."""
    parameters: dict[str, int] = {}

    def number(parameter: re.Match[str]) -> str:
        return f"${parameters.setdefault(parameter[1], len(parameters) + 1)}"

    # First of all: a table may have a name that looks like a parameter.
    sql = _PARAMETER.sub(number, named_statements(package, file)[name])
    return Numbered(with_tables(sql, lambda suffix: quoted_name(table, suffix)), tuple(parameters))
