"""Statements of the `.sql` files as asyncpg takes them. `outbox…` stands for the configured tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from bento_outbox.sql_files import Named, named_statements, numbered


class Statement:
    """One statement; `values` are those of its parameters, by the names in the file, and may hold more."""

    def __init__(self, package: str, file: str, name: str, table: Named) -> None:
        """Raises KeyError when the file has no statement of this name."""
        statement = numbered(package, file, name, table)
        self._sql, self._parameters = statement.sql, statement.parameters

    async def rows(self, connection: asyncpg.Connection, values: Mapping[str, Any]) -> list[asyncpg.Record]:
        """All rows that it returns."""
        rows: list[asyncpg.Record] = await connection.fetch(self._sql, *self._arguments(values))
        return rows

    async def row(self, connection: asyncpg.Connection, values: Mapping[str, Any]) -> asyncpg.Record | None:
        """The first row, if there is one."""
        return await connection.fetchrow(self._sql, *self._arguments(values))

    async def value(self, connection: asyncpg.Connection, values: Mapping[str, Any]) -> Any:
        """The first column of the first row; None if there is none."""
        return await connection.fetchval(self._sql, *self._arguments(values))

    async def run(self, connection: asyncpg.Connection, values: Mapping[str, Any]) -> int:
        """How many rows it changed, or found."""
        tag: str = await connection.execute(self._sql, *self._arguments(values))
        return int(tag.rpartition(" ")[2])

    def _arguments(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self._parameters]


def statements(package: str, file: str, table: Named) -> dict[str, Statement]:
    """All statements of a file, by their names."""
    return {name: Statement(package, file, name, table) for name in named_statements(package, file)}
