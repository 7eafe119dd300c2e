"""Lent connections that tell a test what runs on them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from outbox_projector.database import Connect


class Watched:
    """A Connect of the projector's parts. statements: what was run, in order, BEGIN and COMMIT included."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self.statements: list[str] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._connect() as connection:
            with connection.query_logger(lambda record: self.statements.append(record.query)):
                yield connection


class Planned:
    """A Connect of the projector's parts. plans: of the statements that have a text in them, as JSON, in order."""

    def __init__(self, connect: Connect, text: str, *, options: str = "COSTS ON") -> None:
        """options: of EXPLAIN."""
        self._connect = connect
        self._text = text
        self._options = options
        self.plans: list[dict[str, Any]] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Any]:
        async with self._connect() as connection:
            yield _Planning(connection, self)

    async def plan(self, connection: asyncpg.Connection, sql: str, arguments: tuple[Any, ...]) -> None:
        """As it is at this moment, with the settings of the transaction."""
        if self._text in sql:
            plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON, {self._options}) {sql}", *arguments)
            self.plans.append((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])


class _Planning:
    """A connection that has each statement planned before it runs."""

    def __init__(self, connection: asyncpg.Connection, planned: Planned) -> None:
        self._connection = connection
        self._planned = planned

    def __getattr__(self, name: str) -> Any:
        of_connection = getattr(self._connection, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return of_connection

        async def run(sql: str, *arguments: Any) -> Any:
            await self._planned.plan(self._connection, sql, arguments)
            return await of_connection(sql, *arguments)

        return run


def steps_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The plan and all its parts."""
    yield plan
    for part in plan.get("Plans", []):
        yield from steps_of(part)
