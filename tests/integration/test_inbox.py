"""A handler runs once per consumer and event; on the real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import MetaData, Table, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Inbox, make_inbox_table
from tests.conftest import unique
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]
metadata = MetaData()
table = make_inbox_table(metadata)
effects = Table("inbox_effects", metadata)


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        await connection.execute(text("ALTER TABLE inbox_effects ADD COLUMN what text"))
    yield
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox(unique("billing"), table)


class Handler:
    """Leaves a trace in the database each time it runs to its end."""

    def __init__(self, sessions: Sessions, *, error: Exception | None = None) -> None:
        self.what = unique("effect")
        self.error = error
        self.began = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._sessions = sessions

    async def __call__(self, session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO inbox_effects VALUES (:what)"), {"what": self.what})
        self.began.set()
        await self.may_end.wait()
        if self.error:
            raise self.error

    async def effects(self) -> int:
        async with self._sessions() as session:
            found = text("SELECT count(*) FROM inbox_effects WHERE what = :what")
            count: int = (await session.execute(found, {"what": self.what})).scalar_one()
            return count


@pytest.fixture
def handler(sessions: Sessions) -> Handler:
    return Handler(sessions)


async def test_once_however_often_it_arrives(inbox: Inbox, sessions: Sessions, handler: Handler) -> None:
    event_id = uuid4()

    assert await inbox.handle_once(sessions, event_id, handler)
    assert not await inbox.handle_once(sessions, event_id, handler)
    # As the property of a message has it.
    assert not await inbox.handle_once(sessions, str(event_id), handler)

    assert await handler.effects() == 1


async def test_each_event(inbox: Inbox, sessions: Sessions, handler: Handler) -> None:
    assert [await inbox.handle_once(sessions, uuid4(), handler) for _ in range(3)] == [True] * 3

    assert await handler.effects() == 3


async def test_each_consumer(sessions: Sessions, handler: Handler) -> None:
    event_id = uuid4()
    billing, shipping = Inbox(unique("billing"), table), Inbox(unique("shipping"), table)

    assert [await inbox.handle_once(sessions, event_id, handler) for inbox in (billing, shipping, billing)] == [
        True,
        True,
        False,
    ]

    assert await handler.effects() == 2


async def test_a_handler_that_fails_has_not_handled_it(inbox: Inbox, sessions: Sessions, handler: Handler) -> None:
    event_id = uuid4()
    handler.error = ZeroDivisionError("in the handler")

    with pytest.raises(ZeroDivisionError, match="in the handler"):
        await inbox.handle_once(sessions, event_id, handler)
    assert await handler.effects() == 0
    handler.error = None

    assert await inbox.handle_once(sessions, event_id, handler)
    assert await handler.effects() == 1


@pytest.mark.parametrize("first_fails", [False, True])
async def test_the_same_event_twice_at_the_same_time(
    inbox: Inbox, sessions: Sessions, handler: Handler, first_fails: bool
) -> None:
    """The second delivery waits for the first, and runs the handler only if that failed."""
    event_id = uuid4()
    handler.may_end.clear()
    handler.error = ZeroDivisionError() if first_fails else None
    second_handler = Handler(sessions)

    first = asyncio.create_task(inbox.handle_once(sessions, event_id, handler))
    await handler.began.wait()
    second = asyncio.create_task(inbox.handle_once(sessions, event_id, second_handler))
    await eventually(lambda: _somebody_waits(sessions))
    assert not second_handler.began.is_set()
    handler.may_end.set()
    ran = await asyncio.gather(first, second, return_exceptions=True)

    if first_fails:
        assert isinstance(ran[0], ZeroDivisionError)
        assert ran[1] is True
    else:
        assert ran == [True, False]
    assert await handler.effects() + await second_handler.effects() == 1


async def _somebody_waits(sessions: Sessions) -> bool:
    async with sessions() as session:
        waiting = text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO inbox %' AND datname = current_database()"
        )
        return bool((await session.execute(waiting)).scalar_one())


async def test_in_a_session_of_your_own(inbox: Inbox, sessions: Sessions) -> None:
    event_id = uuid4()
    async with sessions() as session:
        assert await inbox.first_time(session, event_id)
        await session.rollback()
    async with sessions.begin() as session:
        assert await inbox.first_time(session, event_id)
        assert not await inbox.first_time(session, event_id)


async def test_an_id_that_is_none_is_refused(inbox: Inbox, sessions: Sessions, handler: Handler) -> None:
    with pytest.raises(ValueError, match="badly formed"):
        await inbox.handle_once(sessions, "order-1", handler)


async def _handled(inbox: Inbox, sessions: Sessions, handler: Handler, count: int) -> list[UUID]:
    ids = [uuid4() for _ in range(count)]
    for event_id in ids:
        await inbox.handle_once(sessions, event_id, handler)
    return ids


async def test_old_ids_are_forgotten_in_bounded_batches(sessions: Sessions, handler: Handler) -> None:
    consumer = unique("billing")
    inbox, other = Inbox(consumer, table), Inbox(unique("shipping"), table)
    old = await _handled(inbox, sessions, handler, 5)
    async with sessions.begin() as session:
        aged = text("UPDATE inbox SET handled_at = handled_at - interval '8 days' WHERE consumer = :consumer")
        await session.execute(aged, {"consumer": consumer})
    recent = await _handled(inbox, sessions, handler, 2)
    others = await _handled(other, sessions, handler, 1)

    removed = []
    for _ in range(4):
        async with sessions.begin() as session:
            removed.append(await inbox.forget(session, older_than=timedelta(days=7), at_most=2))

    assert removed == [2, 2, 1, 0]
    assert not await inbox.handle_once(sessions, recent[0], handler)
    assert not await other.handle_once(sessions, others[0], handler)
    assert await inbox.handle_once(sessions, old[0], handler)


async def test_the_table_takes_any_name_and_schema_and_lies_in_the_metadata(
    empty_engine: AsyncEngine, handler: Handler
) -> None:
    own = MetaData()
    made = make_inbox_table(own, name="Handled Events", schema="My Shop")
    async with empty_engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "My Shop"'))
        await connection.run_sync(own.create_all)
        columns = await connection.run_sync(lambda sync: inspect(sync).get_columns("Handled Events", schema="My Shop"))
    sessions = async_sessionmaker(empty_engine)
    inbox = Inbox("billing", made)
    event_id = uuid4()

    async with sessions.begin() as session:
        assert await inbox.first_time(session, event_id)
    async with sessions.begin() as session:
        assert not await inbox.first_time(session, event_id)
        assert await inbox.forget(session, older_than=timedelta(0)) == 1

    assert own.tables == {"My Shop.Handled Events": made}
    assert [column["name"] for column in columns] == ["consumer", "event_id", "handled_at"]
