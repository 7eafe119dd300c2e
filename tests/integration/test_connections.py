"""The projector's connections to the real Postgres: how many are open, and what happens when the server ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from outbox_projector.database import MOST_CONNECTIONS, Database, FixedUrl, transaction
from outbox_projector.database_errors import DatabaseUnavailable
from tests.support.lanes import blocked
from tests.support.urls import Url
from tests.support.waiting import eventually


@pytest.fixture
async def database(database_url: str, tenant: str) -> AsyncIterator[Database]:
    database = Database(FixedUrl(database_url), name=tenant)
    yield database
    await database.close()


async def _open(engine: AsyncEngine, name: str) -> list[int]:
    """The process ids of the connections of this name."""
    async with engine.connect() as connection:
        statement = text("SELECT pid FROM pg_stat_activity WHERE application_name = :name")
        return list((await connection.execute(statement, {"name": name})).scalars())


async def _used(database: Database) -> int:
    """The process id of the connection that is lent now."""
    async with database() as connection:
        return int(connection.get_server_pid())


async def _all_at_once(database: Database) -> list[asyncpg.Connection]:
    async with AsyncExitStack() as open_together:
        return [await open_together.enter_async_context(database()) for _ in range(MOST_CONNECTIONS)]


async def test_after_a_busy_time_one_connection_stays_and_is_used_for_all(
    database: Database, engine: AsyncEngine, tenant: str
) -> None:
    async with database() as staying:
        process_id = staying.get_server_pid()

    async def only_that_one_is_open() -> bool:
        return await _open(engine, tenant) == [process_id]

    for _ in range(2):
        await _all_at_once(database)
        assert len(await _open(engine, tenant)) == MOST_CONNECTIONS

        await database.close_idle(but=staying)

        assert [await _used(database) for _ in range(3)] == [process_id] * 3
        await eventually(only_that_one_is_open)


async def test_a_connection_in_use_is_not_closed(database: Database) -> None:
    async with database() as connection:
        await database.close_idle(but=None)
        assert await connection.fetchval("SELECT 1") == 1


async def test_a_connection_that_is_left_in_a_transaction_is_not_lent_again(
    database: Database, engine: AsyncEngine, tenant: str
) -> None:
    async with database() as connection:
        await connection.execute("BEGIN")
        left = connection.get_server_pid()

    assert await _used(database) != left


async def test_a_connection_whose_use_was_cancelled_is_not_lent_again(database: Database) -> None:
    lent: asyncio.Queue[int] = asyncio.Queue()

    async def begin() -> None:
        async with transaction(database) as connection:
            lent.put_nowait(connection.get_server_pid())
            await connection.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(begin())
    left = await lent.get()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert await _used(database) != left


async def test_what_nobody_waits_for_any_more_does_not_wait_at_the_server_either(
    database: Database, sessions: async_sessionmaker[AsyncSession], tenant: str
) -> None:
    """Else each attempt to get past a lock would leave a connection behind, until the server has none left."""

    async def lock(connection: asyncpg.Connection) -> None:
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", tenant)

    async def wait_for_it() -> None:
        async with database() as connection:
            await lock(connection)

    async def nobody_waits() -> bool:
        return await blocked(sessions) == 0

    async with transaction(database) as holding:
        await lock(holding)
        waiting = asyncio.create_task(wait_for_it())
        await eventually(lambda: blocked(sessions))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await eventually(nobody_waits, within=5)


async def test_a_connection_that_is_cut_off_before_it_is_lent_is_closed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[asyncpg.Connection] = []

    async def cut_off(connection: asyncpg.Connection) -> int:
        tried.append(connection)
        raise asyncio.CancelledError

    monkeypatch.setattr("outbox_projector.database._process_id", cut_off)
    with pytest.raises(asyncio.CancelledError):
        await _used(database)

    assert [connection.is_closed() for connection in tried] == [True]


async def test_more_than_there_may_be_wait_for_each_other(database: Database) -> None:
    async with AsyncExitStack() as open_together:
        for _ in range(MOST_CONNECTIONS - 1):
            await open_together.enter_async_context(database())
        assert len(set(await asyncio.gather(*(_used(database) for _ in range(3))))) == 1


async def test_with_another_url_the_connections_of_the_former_are_closed_those_in_use_after_it(
    engine: AsyncEngine, database_url: str, tenant: str
) -> None:
    source = Url(database_url)
    database = Database(source, name=tenant)
    async with database() as connection:
        source.url = f"{database_url}?sslmode=prefer"
        process_id = await _used(database)
        assert await connection.fetchval("SELECT 1") == 1

    async def only_the_new_one_is_open() -> bool:
        return await _open(engine, tenant) == [process_id]

    await eventually(only_the_new_one_is_open)
    await database.close()


async def test_connections_that_the_server_has_ended_are_replaced_unnoticed(
    database: Database, engine: AsyncEngine, tenant: str
) -> None:
    connections = await _all_at_once(database)
    ended = await _open(engine, tenant)
    end = text("SELECT pg_terminate_backend(pid) FROM unnest(CAST(:ids AS int[])) AS pid")
    async with engine.begin() as connection:
        await connection.execute(end, {"ids": ended})

    async def all_have_noticed() -> bool:
        return all(connection.is_closed() for connection in connections)

    await eventually(all_have_noticed)

    assert await _used(database) not in ended


async def test_a_connection_to_what_has_become_a_standby_is_not_used_again(database: Database) -> None:
    """The old server of a failover lives on and only refuses to write, while its name leads to the new one."""
    demoted = await _used(database)

    async def write() -> None:
        async with transaction(database) as connection:
            await connection.execute("SET TRANSACTION READ ONLY")
            await connection.execute("CREATE TABLE not_here ()")

    with pytest.raises(DatabaseUnavailable, match="standby"):
        await write()

    assert await _used(database) != demoted
