"""Roles of the real database that log in with a password, dropped with all that they were granted."""

from __future__ import annotations

from sqlalchemy import NullPool, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bento_outbox.database_url import parse_database_url

PASSWORD = "of-this-test-only"


class Roles:
    """Makes roles in the database of `owner`, and engines that log in as them."""

    def __init__(self, owner: AsyncEngine, database_url: str) -> None:
        self._owner = owner
        self._url = parse_database_url(database_url)
        self._made: list[str] = []
        self._engines: list[AsyncEngine] = []

    async def create(self, name: str, options: str = "") -> str:
        """A role that may log in and nothing else, unless `options` of CREATE ROLE say more. Returns its name."""
        await self._run(f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{PASSWORD}' {options}")
        self._made.append(name)
        return name

    def log_in(self, role: str) -> AsyncEngine:
        """An engine of this role."""
        engine = create_async_engine(self._url.set(username=role, password=PASSWORD), poolclass=NullPool)
        self._engines.append(engine)
        return engine

    def url(self, role: str) -> str:
        """The address with which the role logs in."""
        url = make_url(self._url).set(drivername="postgresql", username=role, password=PASSWORD)
        return url.render_as_string(hide_password=False)

    async def close(self) -> None:
        """Ends the engines and drops the roles."""
        for engine in self._engines:
            await engine.dispose()
        for name in reversed(self._made):
            await self._run(f'DROP OWNED BY "{name}" CASCADE')
            await self._run(f'DROP ROLE "{name}"')

    async def _run(self, ddl: str) -> None:
        async with self._owner.begin() as connection:
            await connection.execute(text(ddl))
