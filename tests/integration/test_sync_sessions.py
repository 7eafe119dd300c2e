"""Plain sessions, without asyncio; and psycopg, with it and without. The naive way is run through the same cases."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from bento_outbox import Outbox, UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.database_url import parse_database_url
from tests.support.notes import Ledger, Noted, create_tables
from tests.support.session_cases import CASES, Desk

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture
def ledger(sessions: Sessions, tenant: str) -> Ledger:
    return Ledger(sessions, tenant)


@pytest.fixture(scope="module")
def sync_engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(parse_database_url(database_url).set(drivername="postgresql+psycopg"))
    yield engine
    engine.dispose()


def _expected(name: str) -> tuple[list[int], list[int]]:
    return list(CASES[name].notes), list(CASES[name].events)


@pytest.mark.parametrize("name", CASES)
async def test_in_a_sync_session(sync_engine: Engine, tenant: str, ledger: Ledger, name: str) -> None:
    outbox = Outbox(tenant=tenant)
    with Session(sync_engine) as session:
        CASES[name].act(Desk(session, tenant, lambda noted: outbox.add(session, noted)))
        session.commit()

    assert await ledger.both() == _expected(name)


@pytest.mark.parametrize("name", CASES)
async def test_in_a_unit_of_work_over_psycopg(database_url: str, tenant: str, ledger: Ledger, name: str) -> None:
    engine = create_async_engine(parse_database_url(database_url).set(drivername="postgresql+psycopg"))
    async with UnitOfWork(async_sessionmaker(engine), tenant_id=tenant, wake=False) as work:
        await work.session.run_sync(lambda sync: CASES[name].act(Desk(sync, tenant, register)))
        await work.commit()
    await engine.dispose()

    assert await ledger.both() == _expected(name)


async def test_a_scoped_session(sync_engine: Engine, tenant: str, ledger: Ledger) -> None:
    current = scoped_session(sessionmaker(sync_engine))
    Outbox(tenant=tenant).add(current, Noted(1))
    current.commit()
    current.remove()

    assert await ledger.events() == [1]


class NaiveOutbox:
    """How it is often done: events are kept aside and written when a flush comes by."""

    def __init__(self, session: Session, tenant: str) -> None:
        self._waiting: list[Noted] = []
        self._tenant = tenant
        event.listen(session, "after_flush", lambda session, _: self._write(session))

    def add(self, noted: Noted) -> None:
        self._waiting.append(noted)

    def _write(self, session: Session) -> None:
        waiting, self._waiting = self._waiting, []
        for noted in waiting:
            session.execute(
                text(
                    "INSERT INTO outbox (id, tenant_id, aggregate_id, type, payload) "
                    "VALUES (:id, :tenant, 'note', 'tests.notes.Noted', CAST(:payload AS jsonb))"
                ),
                {"id": noted.event_id, "tenant": self._tenant, "payload": json.dumps({"number": noted.number})},
            )


@pytest.mark.parametrize("name", CASES)
async def test_what_a_listener_on_after_flush_makes_of_it(
    sync_engine: Engine, tenant: str, ledger: Ledger, name: str
) -> None:
    """If this fails, the case shows nothing that the naive way could not do as well."""
    with Session(sync_engine) as session, contextlib.suppress(DBAPIError):
        CASES[name].act(Desk(session, tenant, NaiveOutbox(session, tenant).add))
        session.commit()

    assert (await ledger.both() == _expected(name)) is CASES[name].naive_copes
