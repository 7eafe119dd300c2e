"""A session that works on a connection, and in a transaction, of somebody else: as in the fixtures of tests.

Its own commit may end nothing, and what it did may be committed or rolled back by others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from bento_outbox import EventNotEncodable, Outbox, UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from tests.support.notes import Ledger, Note, Noted, create_tables, numbers

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture
def ledger(sessions: Sessions, tenant: str) -> Ledger:
    return Ledger(sessions, tenant)


MODES: Any = pytest.mark.parametrize(
    "mode", ["conditional_savepoint", "create_savepoint", "rollback_only", "control_fully"]
)
ENDS: Any = pytest.mark.parametrize("keeps", [True, False], ids=["outer-commits", "outer-rolls-back"])


def _joined(connection: Connection, mode: str) -> Session:
    return Session(connection, join_transaction_mode=mode)  # type: ignore[arg-type] # a parameter of the test


async def _on_a_connection(engine: AsyncEngine, act: Callable[[Connection], object], *, keeps: bool) -> None:
    async with engine.connect() as connection:
        transaction = await connection.begin()
        await connection.run_sync(act)
        if not transaction.is_active:
            return
        await (transaction.commit() if keeps else transaction.rollback())


@MODES
@ENDS
async def test_after_the_sessions_commit_both_are_within_the_outer_transaction(
    engine: AsyncEngine, tenant: str, ledger: Ledger, mode: str, keeps: bool
) -> None:
    outbox = Outbox(tenant=tenant)

    def act(connection: Connection) -> None:
        with _joined(connection, mode) as session:
            session.add(Note(tenant=tenant, number=1))
            outbox.add(session, Noted(1))
            session.flush()
            outbox.add(session, Noted(2))
            session.commit()
            assert numbers(session, tenant) == ([1], [1, 2])

    await _on_a_connection(engine, act, keeps=keeps)

    stays = keeps or mode == "control_fully"
    assert await ledger.both() == (([1], [1, 2]) if stays else ([], []))


@MODES
@ENDS
async def test_a_session_that_is_only_flushed(
    engine: AsyncEngine, tenant: str, ledger: Ledger, mode: str, keeps: bool
) -> None:
    outbox = Outbox(tenant=tenant)
    left_open: list[Session] = []

    def act(connection: Connection) -> None:
        session = _joined(connection, mode)
        left_open.append(session)
        session.add(Note(tenant=tenant, number=1))
        outbox.add(session, Noted(1))
        session.flush()

    await _on_a_connection(engine, act, keeps=keeps)

    assert await ledger.both() == (([1], [1]) if keeps else ([], []))


@MODES
@ENDS
async def test_a_session_that_runs_core_statements_and_is_not_committed(
    engine: AsyncEngine, tenant: str, ledger: Ledger, mode: str, keeps: bool
) -> None:
    outbox = Outbox(tenant=tenant)
    left_open: list[Session] = []

    def act(connection: Connection) -> None:
        session = _joined(connection, mode)
        left_open.append(session)
        session.execute(insert(Note.__table__).values(id=uuid4(), tenant=tenant, number=1))
        outbox.add(session, Noted(1))
        session.add(Note(tenant=tenant, number=2))
        outbox.add(session, Noted(2))

    await _on_a_connection(engine, act, keeps=keeps)

    assert await ledger.both() == (([1, 2], [1, 2]) if keeps else ([], []))


@MODES
@pytest.mark.parametrize("bound_by", ["session", "table"])
async def test_a_session_that_is_flushed_and_closed(
    engine: AsyncEngine, tenant: str, ledger: Ledger, mode: Any, bound_by: str
) -> None:
    """Whether its rows stay is for SQLAlchemy to say; the events go with them."""
    outbox = Outbox(tenant=tenant)

    def act(connection: Connection) -> None:
        by_table = {Note: connection, outbox.table: connection}
        bind: Any = {"bind": connection} if bound_by == "session" else {"binds": by_table}
        with Session(**bind, join_transaction_mode=mode) as session:
            session.add(Note(tenant=tenant, number=1))
            outbox.add(session, Noted(1))
            session.flush()

    await _on_a_connection(engine, act, keeps=True)

    notes, events = await ledger.both()
    assert notes == events


@MODES
async def test_savepoints_of_a_session_on_a_connection_of_somebody_else(
    engine: AsyncEngine, tenant: str, ledger: Ledger, mode: str
) -> None:
    outbox = Outbox(tenant=tenant)

    def note(session: Session, number: int) -> None:
        session.add(Note(tenant=tenant, number=number))
        outbox.add(session, Noted(number))

    def act(connection: Connection) -> None:
        with _joined(connection, mode) as session:
            outbox.add(session, Noted(0))
            savepoint = session.begin_nested()
            note(session, 1)
            session.flush()
            savepoint.rollback()
            note(session, 2)
            with session.begin_nested():
                note(session, 3)
                session.flush()
                inner = session.begin_nested()
                note(session, 4)
                session.flush()
                inner.rollback()
            session.commit()

    await _on_a_connection(engine, act, keeps=True)

    assert await ledger.both() == ([2, 3], [0, 2, 3])


async def test_a_unit_of_work_within_the_transaction_of_a_test(
    engine: AsyncEngine, tenant: str, ledger: Ledger
) -> None:
    async with engine.connect() as connection:
        transaction = await connection.begin()
        sessions = async_sessionmaker(connection, join_transaction_mode="create_savepoint")
        async with UnitOfWork(sessions, tenant_id=tenant) as work:
            work.session.add(Note(tenant=tenant, number=1))
            register(Noted(1))
            await work.commit()
        async with UnitOfWork(sessions, tenant_id=tenant) as work:
            work.session.add(Note(tenant=tenant, number=2))
            register(Noted(2))
            await work.session.flush()
        async with sessions() as session:
            assert await session.run_sync(numbers, tenant) == ([1], [1])
        await transaction.rollback()

    assert await ledger.both() == ([], [])


class Confused(Note):
    """Hands over what is no event when it is asked at the commit; the database hears nothing of that."""

    def pull_events(self) -> list[object]:
        return [object()]


async def test_a_connection_that_goes_on_after_a_refused_event_has_rolled_back(
    engine: AsyncEngine, tenant: str, ledger: Ledger
) -> None:
    """SQLAlchemy counts a transaction as over once COMMIT was tried; nothing of it may be left for the next."""
    async with engine.connect() as connection:
        async with UnitOfWork(async_sessionmaker(connection), tenant_id=tenant) as work:
            await work.session.execute(insert(Note).values(tenant=tenant, number=1))
            work.repository(Confused).track(Confused())
            with pytest.raises(EventNotEncodable):
                await connection.commit()
        await connection.rollback()
        await connection.execute(insert(Note).values(id=uuid4(), tenant=tenant, number=2))
        await connection.commit()

    assert await ledger.both() == ([2], [])


async def test_what_the_outer_transaction_takes_along_when_it_rolls_back_does_not_come_with_the_next(
    engine: AsyncEngine, tenant: str, ledger: Ledger
) -> None:
    outbox = Outbox(tenant=tenant)

    def act(connection: Connection) -> None:
        outer = connection.begin()
        session = Session(connection)
        session.execute(insert(Note.__table__).values(id=uuid4(), tenant=tenant, number=1))
        outbox.add(session, Noted(1))
        outer.rollback()
        with connection.begin():
            connection.execute(insert(Note.__table__).values(id=uuid4(), tenant=tenant, number=2))
        session.close()

    async with engine.connect() as connection:
        await connection.run_sync(act)

    assert await ledger.both() == ([2], [])
