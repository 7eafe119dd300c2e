"""The statements of the `.sql` files for SQLAlchemy."""

from __future__ import annotations

from sqlalchemy import MetaData, Table, TextClause, text

from bento_outbox.sql_files import named_statements, with_tables
from bento_outbox.table import quoted


def statement(package: str, file: str, name: str, table: Table) -> TextClause:
    """The statement below `-- name: name`, on these tables."""

    def named(suffix: str) -> str:
        return quoted(Table(f"{table.name}{suffix}", MetaData(), schema=table.schema) if suffix else table)

    return text(with_tables(named_statements(package, file)[name], named))
