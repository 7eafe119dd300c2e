"""SQL lives in `.sql` files, a statement a block; this puts the configured tables in the place of `outbox…`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from sqlalchemy import MetaData, Table, TextClause, text

from bento_outbox.table import LANE_TABLES, quoted

_TABLE = re.compile(rf"\b(FROM|UPDATE|INTO) outbox({'|'.join(LANE_TABLES)})?\b( AS \w+)?")


@cache
def named_statements(package: str, file: str) -> dict[str, str]:
    """The statements of a file by the names above them, as they are there."""
    source = files(package).joinpath(file).read_text()
    parts = re.split(r"^-- name: (\w+)$", source, flags=re.MULTILINE)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def statement(package: str, file: str, name: str, table: Table) -> TextClause:
    """The statement below `-- name: name`; names without an alias stay as aliases, whatever the tables are called."""

    def aliased(match: re.Match[str]) -> str:
        suffix = match[2] or ""
        named = Table(f"{table.name}{suffix}", MetaData(), schema=table.schema) if suffix else table
        return f"{match[1]} {quoted(named)}{match[3] or f' AS outbox{suffix}'}"

    return text(_TABLE.sub(aliased, named_statements(package, file)[name]))
