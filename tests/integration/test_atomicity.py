"""Whatever a session does, its rows and its events are stored together or not at all; on the real Postgres."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session

from bento_outbox import EventNotEncodable, MisuseError, Outbox, UnitOfWork, acting_for
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.database_url import parse_database_url
from tests.support.notes import Ledger, Note, Noted, Unstorable, create_tables
from tests.support.session_cases import CASES, Desk
from tests.support.statements import statements_of

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture
def ledger(sessions: Sessions, tenant: str) -> Ledger:
    return Ledger(sessions, tenant)


def _expected(name: str) -> tuple[list[int], list[int]]:
    return list(CASES[name].notes), list(CASES[name].events)


@pytest.mark.parametrize("name", CASES)
async def test_in_a_unit_of_work(sessions: Sessions, tenant: str, ledger: Ledger, name: str) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant, wake=False) as work:
        await work.session.run_sync(lambda sync: CASES[name].act(Desk(sync, tenant, register)))
        await work.commit()

    assert await ledger.both() == _expected(name)


@pytest.mark.parametrize("name", CASES)
async def test_in_a_session_that_is_committed_past_the_unit_of_work(
    sessions: Sessions, tenant: str, ledger: Ledger, name: str
) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        await work.session.run_sync(lambda sync: CASES[name].act(Desk(sync, tenant, register)))
        await work.session.commit()

    assert await ledger.both() == _expected(name)


@pytest.mark.parametrize("name", CASES)
async def test_in_an_async_session_without_a_unit_of_work(
    sessions: Sessions, tenant: str, ledger: Ledger, name: str
) -> None:
    outbox = Outbox(tenant=tenant)
    async with sessions() as session:
        desk = lambda sync: Desk(sync, tenant, lambda noted: outbox.add(session, noted))  # noqa: E731
        await session.run_sync(lambda sync: CASES[name].act(desk(sync)))
        await session.commit()

    assert await ledger.both() == _expected(name)


async def test_nothing_is_seen_outside_before_the_commit(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        async with work.session.begin_nested():
            work.session.add(Note(tenant=tenant, number=1))
            register(Noted(1))
        assert await ledger.both() == ([], [])
        await work.session.flush()
        assert await ledger.both() == ([], [])
        await work.commit()

    assert await ledger.both() == ([1], [1])


async def test_a_session_that_begins_and_commits_by_a_block(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    outbox = Outbox(tenant=tenant)
    async with sessions() as session, session.begin():
        session.add(Note(tenant=tenant, number=1))
        outbox.add(session, Noted(1))
        await session.begin_nested()
        outbox.add(session, Noted(2))
    async with sessions.begin() as session:
        outbox.add(session, Noted(3))

    assert await ledger.both() == ([1], [1, 2, 3])


async def test_a_block_that_fails_leaves_neither(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    async def fail() -> None:
        async with sessions.begin() as session:
            session.add(Note(tenant=tenant, number=1))
            Outbox(tenant=tenant).add(session, Noted(1))
            await session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await ledger.both() == ([], [])


@pytest.mark.parametrize("hook", ["before_commit", "after_flush_postexec"])
async def test_a_late_event_that_the_database_refuses_takes_everything_along(
    sessions: Sessions, tenant: str, ledger: Ledger, hook: str
) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        late = lambda *_: register(Unstorable(2))  # noqa: E731
        event.listen(work.session.sync_session, hook, late, once=True)
        work.session.add(Note(tenant=tenant, number=1))
        with pytest.raises(DBAPIError):
            await work.commit()
        assert await ledger.both() == ([], [])
        await work.rollback()
        work.session.add(Note(tenant=tenant, number=3))
        register(Noted(3))
        await work.commit()

    assert await ledger.both() == ([3], [3])


class Draft(Note):
    """A note that holds its events until it is asked."""

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self.say_this(Noted(number))

    def say_this(self, event: Any) -> None:
        self.__dict__.setdefault("said", []).append(event)

    def pull_events(self) -> list[Any]:
        said: list[Any] = self.__dict__.pop("said", [])
        return said


async def test_a_savepoint_takes_the_events_that_aggregates_hold_along(
    sessions: Sessions, tenant: str, ledger: Ledger
) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        draft = Draft(tenant=tenant, number=1)
        work.repository(Draft).add(draft)
        draft.say(1)
        savepoint = await work.session.begin_nested()
        draft.say(2)
        await savepoint.rollback()
        draft.say(3)
        async with work.session.begin_nested():
            draft.say(4)
        await work.commit()

    assert await ledger.both() == ([1], [1, 3, 4])


@pytest.mark.parametrize("past_the_unit_of_work", [True, False])
async def test_a_rollback_takes_the_events_that_aggregates_hold_along(
    sessions: Sessions, tenant: str, ledger: Ledger, past_the_unit_of_work: bool
) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        draft = Draft(tenant=tenant, number=1)
        work.repository(Draft).add(draft)
        draft.say(1)
        await (work.session.rollback() if past_the_unit_of_work else work.rollback())
        register(Noted(2))
        await work.commit()

    assert await ledger.both() == ([], [2])


async def test_no_commit_goes_on_without_an_event_that_an_aggregate_held_and_that_was_refused(
    sessions: Sessions, tenant: str, ledger: Ledger
) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        draft = Draft(tenant=tenant, number=1)
        work.repository(Draft).add(draft)
        draft.say(1)
        draft.say_this(object())
        draft.say(2)
        for _ in range(2):
            with pytest.raises(EventNotEncodable, match="is not a registered event type"):
                await work.commit()
        assert await ledger.both() == ([], [])
        await work.rollback()
        register(Noted(3))
        await work.commit()

    assert await ledger.both() == ([], [3])


@pytest.mark.parametrize("count", [1, 2, 500])
async def test_one_insert_for_any_number_of_events(
    engine: AsyncEngine, sessions: Sessions, tenant: str, ledger: Ledger, count: int
) -> None:
    with statements_of(engine) as statements:
        async with UnitOfWork(sessions, tenant_id=tenant, wake=False) as work:
            for number in range(count):
                register(Noted(number))
                if number % 100 == 0:
                    async with work.session.begin_nested():
                        await work.session.execute(select(1))
            await work.commit()

    assert len([statement for statement in statements if "outbox" in statement]) == 1
    assert await ledger.events() == list(range(count))


async def test_a_session_without_events_costs_no_statement(engine: AsyncEngine, sessions: Sessions) -> None:
    with statements_of(engine) as statements:
        async with UnitOfWork(sessions, tenant_id="acme", wake=False) as work:
            await work.session.execute(text("SELECT 'business'"))
            await work.commit()
        async with UnitOfWork(sessions, tenant_id="acme", wake=False) as work:
            await work.commit()

    assert statements == ["SELECT 'business'"]


async def test_sessions_in_parallel_tasks_do_not_mix(sessions: Sessions, tenant: str) -> None:
    tenants = [f"{tenant}-{number}" for number in range(4)]
    all_registered = asyncio.Barrier(len(tenants))

    async def work_for(name: str, commits: bool) -> None:
        async with UnitOfWork(sessions, tenant_id=name) as work:
            work.session.add(Note(tenant=name, number=1))
            register(Noted(1))
            await all_registered.wait()
            await work.session.flush()
            register(Noted(2))
            await all_registered.wait()
            if commits:
                await work.commit()

    await asyncio.gather(*(work_for(name, index % 2 == 0) for index, name in enumerate(tenants)))

    stored = [await Ledger(sessions, name).both() for name in tenants]
    assert stored == [([1], [1, 2]), ([], [])] * 2


async def test_nested_units_of_work_keep_their_events_apart(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as outer:
        register(Noted(1))
        async with UnitOfWork(sessions, tenant_id=tenant) as inner:
            register(Noted(2))
            await inner.commit()
        register(Noted(3))
        assert await ledger.events() == [2]
        await outer.commit()

    assert await ledger.events() == [2, 1, 3]


async def test_events_of_child_tasks_and_threads_go_to_the_unit_of_work_they_were_started_in(
    sessions: Sessions, tenant: str, ledger: Ledger
) -> None:
    async def child() -> None:
        register(Noted(1))

    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        await asyncio.create_task(child())
        await asyncio.to_thread(register, Noted(2))
        await work.commit()

    assert await ledger.events() == [1, 2]


async def test_a_scoped_session(engine: AsyncEngine, tenant: str, ledger: Ledger) -> None:
    current = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    Outbox(tenant=tenant).add(current, Noted(1))
    await current.commit()
    await current.remove()

    assert await ledger.events() == [1]


async def test_a_session_without_autobegin(engine: AsyncEngine, tenant: str, ledger: Ledger) -> None:
    outbox = Outbox(tenant=tenant)
    async with AsyncSession(engine, autobegin=False) as session:
        with pytest.raises(MisuseError, match=r"has not begun: call session\.begin\(\)"):
            outbox.add(session, Noted(1))
        async with session.begin():
            outbox.add(session, Noted(2))

    assert await ledger.events() == [2]


async def test_a_session_of_several_databases_finds_the_outbox_by_its_table(
    engine: AsyncEngine, database_url: str, tenant: str, ledger: Ledger
) -> None:
    outbox = Outbox(tenant=tenant)
    elsewhere = create_async_engine(parse_database_url(database_url))
    binds = {Note: engine, outbox.table: engine}
    async with AsyncSession(elsewhere, binds=binds) as session:
        await session.execute(text("SELECT 'elsewhere'"))
        session.add(Note(tenant=tenant, number=1))
        outbox.add(session, Noted(1))
        event.listen(session.sync_session, "before_commit", lambda _: outbox.add(session, Noted(2)), once=True)
        await session.commit()
    await elsewhere.dispose()

    assert await ledger.both() == ([1], [1, 2])


async def test_two_outboxes_of_one_table_keep_one_order(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    async with sessions.begin() as session:
        for number in range(4):
            Outbox(tenant=tenant).add(session, Noted(number))

    assert await ledger.events() == [0, 1, 2, 3]


async def test_the_tenant_of_the_context(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    with acting_for(tenant):
        async with UnitOfWork(sessions) as work:
            register(Noted(1))
            await work.commit()

    assert await ledger.events() == [1]


@pytest.mark.parametrize("earlier", [(), (1,)], ids=["the first event", "another event"])
async def test_an_event_behind_the_commit_is_refused_not_lost(
    sessions: Sessions, tenant: str, ledger: Ledger, earlier: tuple[int, ...]
) -> None:
    outbox = Outbox(tenant=tenant)
    async with sessions() as session:
        event.listen(session.sync_session, "after_commit", lambda _: outbox.add(session, Noted(2)), once=True)
        session.add(Note(tenant=tenant, number=1))
        for number in earlier:
            outbox.add(session, Noted(number))
        with pytest.raises(MisuseError, match=r"'tests.notes.Noted' came after the commit .* a transaction of its own"):
            await session.commit()
        await session.close()
        outbox.add(session, Noted(3))
        await session.commit()

    assert await ledger.both() == ([1], [*earlier, 3])


@pytest.mark.parametrize("earlier", [(), (1,)], ids=["the first event", "another event"])
async def test_an_event_of_a_hook_that_comes_before_ours_is_refused_as_well(
    sessions: Sessions, tenant: str, ledger: Ledger, earlier: tuple[int, ...]
) -> None:
    """Where the application listened to all sessions before the library did."""
    outbox = Outbox(tenant=tenant)
    async with sessions() as session:

        def hook(committed: Session) -> None:
            if committed is session.sync_session:
                outbox.add(session, Noted(2))

        session.add(Note(tenant=tenant, number=1))
        for number in earlier:
            outbox.add(session, Noted(number))
        event.listen(Session, "after_commit", hook, insert=True)
        try:
            with pytest.raises(MisuseError, match=r"1 event\(s\) came too late for the commit and are not stored"):
                await session.commit()
        finally:
            event.remove(Session, "after_commit", hook)

    assert await ledger.both() == ([1], list(earlier))


async def test_rows_are_written_before_their_events(engine: AsyncEngine, sessions: Sessions, tenant: str) -> None:
    """An aggregate's row is locked when its events get their place: that makes their order the order of commits."""
    async with sessions.begin() as session:
        session.add(note := Note(tenant=tenant, number=1))
    with statements_of(engine) as statements:
        async with UnitOfWork(sessions, tenant_id=tenant, wake=False) as work:
            work.session.add(note)
            note.number = 2
            register(Noted(2))
            await work.commit()

    assert ["UPDATE notes" in statements[-2], "INSERT INTO outbox" in statements[-1]] == [True, True]
