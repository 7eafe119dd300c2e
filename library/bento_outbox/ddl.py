"""Scripts of statements that make things, kept in `.sql` files as a DBA reads them, for any name of the table."""

from __future__ import annotations

import re
from importlib.resources import files

from sqlalchemy import MetaData, Table

from bento_outbox.sql_files import LANE_TABLES
from bento_outbox.table import quoted

_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)
_INDEXES = ("_tenant_status_seq", "_sent", "_retry", "_failed_key", "_failed")
_NAME = re.compile(rf"\boutbox(?:{'|'.join(('_tenant_role', *LANE_TABLES, *_INDEXES))})?\b")


def renamed(sql: str, *, table: str, schema: str | None, beside: str = "") -> str:
    """The text for `sqlalchemy.text`, where names that begin with `outbox` begin with `table` instead.

    beside: one of LANE_TABLES, if `outbox` by itself stands for that one.
    """

    def name(match: re.Match[str]) -> str:
        suffix = match[0].removeprefix("outbox") or beside
        # An index lies in the schema of its table: it is created without one, and found there when it is dropped.
        created = suffix in _INDEXES and sql.startswith("CREATE INDEX")
        return quoted(Table(table + suffix, MetaData(), schema=None if created else schema))

    return _NAME.sub(name, sql)


def script(package: str, file: str, *, table: str, schema: str | None, beside: str = "") -> list[str]:
    """The statements of a file, one by one, for this table; beside: see `renamed`."""
    source = _COMMENT.sub("", files(package).joinpath(file).read_text())
    parts = [part.strip() for part in source.split(";\n") if part.strip()]
    return [renamed(part, table=table, schema=schema, beside=beside) for part in parts]
