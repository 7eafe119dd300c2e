"""In AUTOCOMMIT rows and events would be transactions of their own: refused before anything is stored."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from bento_outbox import MisuseError, Outbox, UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.database_url import parse_database_url
from tests.support.notes import Ledger, Note, Noted, create_tables

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture
def ledger(sessions: Sessions, tenant: str) -> Ledger:
    return Ledger(sessions, tenant)


@pytest.fixture(params=["asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return f"postgresql+{request.param}"


def _autocommit(database_url: str, driver: str, by: str) -> AsyncEngine:
    url = parse_database_url(database_url).set(drivername=driver)
    if by == "engine":
        return create_async_engine(url, isolation_level="AUTOCOMMIT")
    return create_async_engine(url, execution_options={"isolation_level": "AUTOCOMMIT"})


@pytest.mark.parametrize("by", ["engine", "execution-options"])
@pytest.mark.parametrize("first", ["event", "row", "statement"])
async def test_autocommit_is_refused_before_anything_is_stored(
    database_url: str, tenant: str, ledger: Ledger, driver: str, by: str, first: str
) -> None:
    engine = _autocommit(database_url, driver, by)

    async def work_in_it() -> None:
        async with UnitOfWork(async_sessionmaker(engine), tenant_id=tenant) as work:
            if first == "event":
                register(Noted(1))
            work.session.add(Note(tenant=tenant, number=1))
            if first == "statement":
                await work.session.execute(insert(Note).values(tenant=tenant, number=2))
            register(Noted(2))
            await work.commit()

    with pytest.raises(MisuseError, match=r"the engine is in AUTOCOMMIT, .* use an engine without"):
        await work_in_it()
    await engine.dispose()

    assert await ledger.both() == ([], [])


async def test_autocommit_of_one_transaction_is_refused(sessions: Sessions, tenant: str, ledger: Ledger) -> None:
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        register(Noted(1))
        with pytest.raises(MisuseError, match="AUTOCOMMIT"):
            await work.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})

    assert await ledger.both() == ([], [])


async def test_a_session_that_is_in_autocommit_already_takes_no_event(
    database_url: str, tenant: str, ledger: Ledger, driver: str
) -> None:
    engine = _autocommit(database_url, driver, "engine")
    async with AsyncSession(engine) as session:
        await session.execute(select(1))
        with pytest.raises(MisuseError, match="AUTOCOMMIT"):
            Outbox(tenant=tenant).add(session, Noted(1))
    await engine.dispose()

    assert await ledger.both() == ([], [])


async def test_autocommit_without_events_is_nobodys_business(database_url: str, tenant: str, ledger: Ledger) -> None:
    engine = _autocommit(database_url, "postgresql+asyncpg", "engine")
    async with AsyncSession(engine) as session:
        session.add(Note(tenant=tenant, number=1))
        await session.commit()
    await engine.dispose()

    assert await ledger.notes() == [1]
