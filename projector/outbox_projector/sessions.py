"""The connections of an application's own SQLAlchemy sessions, for a projector that runs in its process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import MisuseError
from outbox_projector.database import Connect, ended_by_interruptions


def borrowed(session_factory: Callable[[], AsyncSession]) -> Connect:
    """Lends the connection of a new session, which must be asyncpg's: raises MisuseError when one is wanted."""

    @asynccontextmanager
    async def connect() -> AsyncIterator[asyncpg.Connection]:
        async with session_factory() as session:
            connection = await _driver_connection(session)
            if connection.is_closed():  # by the server, while nobody used it
                await session.invalidate()
                connection = await _driver_connection(session)
            try:
                async with ended_by_interruptions(connection):
                    yield connection
            finally:
                if connection.is_closed():
                    await session.invalidate()  # SQLAlchemy has not seen what happened on it

    return connect


async def _driver_connection(session: AsyncSession) -> asyncpg.Connection:
    try:
        pooled = await (await session.connection()).get_raw_connection()
    except DBAPIError as error:
        # SQLAlchemy's own error is around an imitation of the DBAPI's, which the driver's has caused.
        raise (getattr(error.orig, "__cause__", None) or error) from error
    connection = pooled.driver_connection
    if not isinstance(connection, asyncpg.Connection):
        raise MisuseError(
            f"the sessions use {type(connection).__module__}, but the projector speaks through asyncpg: "
            "make their engine with postgresql+asyncpg://"
        )
    return connection
