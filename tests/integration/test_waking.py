"""Telling the projector after a commit: heard by a connection that listens, on the real Postgres."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import MetaData, NullPool, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

from bento_outbox import InMemoryMessageBus, UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.channels import channel_of
from bento_outbox.database_url import parse_database_url
from bento_outbox.table import make_outbox_table, outbox_table
from bento_outbox.waking import waker_of
from tests.conftest import unique
from tests.support.notes import Noted
from tests.support.rows import Rows
from tests.support.statements import statements_of
from tests.support.waiting import eventually

END = "end"


class Listener:
    """What comes in on a channel, in order."""

    def __init__(self, connection: Any, channel: str, engine: AsyncEngine) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        self._connection = connection
        self._channel = channel
        self._engine = engine

    async def begin(self) -> None:
        await self._connection.add_listener(self._channel, lambda *args: self.heard.put_nowait(args[3]))

    async def count(self) -> int:
        """How many notifications came in, once all that were asked for are sent: a last one marks the end."""
        await waker_of(self._engine.sync_engine).drained()
        await self._connection.execute("SELECT pg_notify($1, $2)", self._channel, END)
        count = 0
        while await self.heard.get() != END:
            count += 1
        return count


@pytest.fixture
async def own_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine that nothing else wakes over."""
    engine = create_async_engine(parse_database_url(database_url))
    yield engine
    await waker_of(engine.sync_engine).drained()
    await engine.dispose()


@pytest.fixture
async def listener(database_url: str, tenant: str, own_engine: AsyncEngine) -> AsyncIterator[Listener]:
    connection = await asyncpg.connect(database_url)
    listener = Listener(connection, channel_of(outbox_table, tenant), own_engine)
    await listener.begin()
    yield listener
    await connection.close()


async def _commit(engine: AsyncEngine, tenant: str, number: int = 1, **options: Any) -> None:
    async with UnitOfWork(async_sessionmaker(engine), tenant_id=tenant, **options) as work:
        register(Noted(number))
        await work.commit()


async def test_a_commit_wakes_the_projector(own_engine: AsyncEngine, tenant: str, listener: Listener) -> None:
    await _commit(own_engine, tenant)

    assert await listener.heard.get() == ""
    assert await listener.count() == 0


async def test_the_events_are_there_when_it_wakes(
    own_engine: AsyncEngine, rows: Rows, tenant: str, listener: Listener
) -> None:
    await _commit(own_engine, tenant)
    await listener.heard.get()

    assert await rows.statuses() == ["NEW"]


async def test_many_commits_at_once_wake_a_few_times(own_engine: AsyncEngine, tenant: str, listener: Listener) -> None:
    await asyncio.gather(*(_commit(own_engine, tenant, number) for number in range(20)))

    assert 1 <= await listener.count() <= 20


async def test_what_is_asked_for_within_the_pause_is_one_notification(
    own_engine: AsyncEngine, tenant: str, listener: Listener
) -> None:
    waker = waker_of(own_engine.sync_engine)
    with statements_of(own_engine) as statements:
        for _ in range(20):
            waker.wake(channel_of(outbox_table, tenant))
            waker.wake(channel_of(outbox_table, "another tenant"))

        assert await listener.count() == 1
    assert len(statements) == 1


async def test_one_engine_has_one_waker(own_engine: AsyncEngine, engine: AsyncEngine) -> None:
    assert waker_of(own_engine.sync_engine) is waker_of(own_engine.sync_engine)
    assert waker_of(own_engine.sync_engine) is not waker_of(engine.sync_engine)


async def test_a_waker_leaves_no_connection_behind_on_an_engine_that_is_disposed_meanwhile(
    database_url: str, sessions: async_sessionmaker[AsyncSession]
) -> None:
    name = unique("waker")
    engine = create_async_engine(
        parse_database_url(database_url), connect_args={"server_settings": {"application_name": name}}
    )
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *_: await_only(engine.dispose()), once=True)
    waker_of(engine.sync_engine).wake("nobody")
    await waker_of(engine.sync_engine).drained()

    async def gone() -> bool:
        async with sessions() as session:
            open_ones = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
            return (await session.execute(open_ones, {"name": name})).scalar_one() == 0

    await eventually(gone)


async def test_a_waker_does_not_keep_its_engine_alive(database_url: str) -> None:
    forgotten = create_async_engine(parse_database_url(database_url), poolclass=NullPool)
    waker = waker_of(forgotten.sync_engine)
    engine = weakref.ref(forgotten)
    del forgotten
    gc.collect()

    assert engine() is None
    waker.wake("nobody")
    await waker.drained()


@pytest.mark.parametrize(
    "options",
    [pytest.param({"wake": False}, id="switched-off"), pytest.param({"message_bus": InMemoryMessageBus()}, id="bus")],
)
async def test_no_notification_where_none_is_wanted(
    own_engine: AsyncEngine, tenant: str, listener: Listener, options: dict[str, Any]
) -> None:
    await _commit(own_engine, tenant, **options)

    assert await listener.count() == 0


async def test_nothing_committed_wakes_nobody(own_engine: AsyncEngine, tenant: str, listener: Listener) -> None:
    sessions = async_sessionmaker(own_engine)
    noted = Noted(1)
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        register(noted)
        await work.rollback()
        await work.session.execute(text("SELECT 'business without events'"))
        await work.commit()
        register(noted)

    assert await listener.count() == 0


async def test_an_event_that_was_there_already_wakes_nobody(
    own_engine: AsyncEngine, tenant: str, listener: Listener
) -> None:
    noted = Noted(1)
    for wake in (False, True):
        async with UnitOfWork(async_sessionmaker(own_engine), tenant_id=tenant, wake=wake) as work:
            register(noted)
            await work.commit()

    assert await listener.count() == 0


async def test_a_transaction_of_somebody_else_wakes_nobody(
    own_engine: AsyncEngine, tenant: str, listener: Listener
) -> None:
    async with own_engine.connect() as connection:
        async with UnitOfWork(async_sessionmaker(connection), tenant_id=tenant) as work:  # type: ignore[arg-type] # both fit
            register(Noted(1))
            await work.commit()
        await connection.commit()

    assert await listener.count() == 0


async def test_nothing_is_sent_inside_the_business_transaction(
    own_engine: AsyncEngine, tenant: str, listener: Listener
) -> None:
    """There it would take a lock of the whole cluster at COMMIT."""
    steps: list[str] = []

    def statement(*arguments: Any) -> None:
        steps.append("notify" if "pg_notify" in arguments[2] else "insert")

    event.listen(own_engine.sync_engine, "before_cursor_execute", statement)
    event.listen(own_engine.sync_engine, "commit", lambda _: steps.append("commit"))
    async with UnitOfWork(async_sessionmaker(own_engine), tenant_id=tenant) as work:
        register(Noted(1))
        await work.commit()
        assert steps == ["insert", "commit"]

    assert await listener.count() == 1
    assert steps == ["insert", "commit", "notify"]


async def test_each_tenant_has_a_channel_of_its_own(own_engine: AsyncEngine, tenant: str, listener: Listener) -> None:
    await _commit(own_engine, unique("tenant"))

    assert await listener.count() == 0


async def test_a_notification_that_fails_disturbs_nobody(
    own_engine: AsyncEngine, tenant: str, listener: Listener
) -> None:
    broken = True

    def fail(*arguments: Any) -> None:
        if broken and "pg_notify" in arguments[2]:
            raise OSError("no NOTIFY here")

    event.listen(own_engine.sync_engine, "before_cursor_execute", fail)
    await _commit(own_engine, tenant)
    assert await listener.count() == 0

    broken = False
    await _commit(own_engine, tenant)
    assert await listener.count() == 1


def test_a_waker_works_on_each_event_loop_in_turn(database_url: str, tenant: str) -> None:
    """A program may run several, and end one with a notification under way."""
    engine = create_async_engine(parse_database_url(database_url), poolclass=NullPool)
    waker = waker_of(engine.sync_engine)

    async def wake_and_leave() -> None:
        waker.wake("one")

    async def wake_and_wait() -> None:
        with statements_of(engine) as statements:
            waker.wake("two")
            await waker.drained()
        assert len(statements) == 1

    for main in (wake_and_leave, wake_and_wait):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        for task in asyncio.all_tasks(loop):
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()


async def test_other_writers_notify_as_the_page_on_the_table_says(database_url: str, engine: AsyncEngine) -> None:
    page = (Path(__file__).parents[2] / "docs" / "table-contract.md").read_text()
    (statement,) = re.findall(r"^SELECT pg_notify.*;$", page, re.MULTILINE)
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(channel_of(outbox_table, "acme"), lambda *args: heard.put_nowait(args[3]))

    async with engine.begin() as writer:
        await writer.exec_driver_sql(statement)

    assert await heard.get() == ""
    await connection.close()


def test_channels_differ_by_table_and_tenant_and_fit_into_postgres_names() -> None:
    names = {
        channel_of(make_outbox_table(MetaData(), name=name), tenant)
        for name in ("outbox", "o" * 40)
        for tenant in ("acme", "A" * 200, 'a"b', "ü")
    }

    assert len(names) == 8
    assert all(len(name.encode()) <= 63 and name.isidentifier() for name in names)


def test_a_schema_that_only_one_side_names_does_not_part_them() -> None:
    assert channel_of(make_outbox_table(MetaData(), schema="public"), "acme") == channel_of(outbox_table, "acme")
