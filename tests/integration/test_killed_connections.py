"""The connection is killed before each step of a commit in turn; row and event agree each time, on the real Postgres.
So they do when the task is cancelled there.

The steps are the statements of a unit of work and its COMMITs, counted in a run without a kill: those of the business
transaction and, with a message bus, those that settle the rows afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, NullPool, event, insert, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.util import await_only

from bento_outbox import Envelope, InMemoryMessageBus, UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.bus import as_list
from bento_outbox.database_url import parse_database_url
from tests.conftest import unique
from tests.support.notes import Ledger, Note, Noted, create_tables
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture
async def mortal_engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of its own: its connections get killed."""
    engine = create_async_engine(parse_database_url(database_url), poolclass=NullPool)
    yield engine
    await engine.dispose()


class Killer:
    """Counts the steps of an engine's connections, and before the `at`-th, from 1, kills it or cancels the task."""

    def __init__(self, engine: AsyncEngine, by: str, sessions: Sessions, at: int | None = None) -> None:
        self.steps: list[str] = []
        self._engine = engine.sync_engine
        self._by = by
        self._sessions = sessions
        self._at = at

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        def before_statement(connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
            self._step(connection, statement)

        def before_commit(connection: Connection) -> None:
            self._step(connection, "COMMIT")

        event.listen(self._engine, "before_cursor_execute", before_statement)
        event.listen(self._engine, "commit", before_commit)
        try:
            yield
        finally:
            event.remove(self._engine, "before_cursor_execute", before_statement)
            event.remove(self._engine, "commit", before_commit)

    def _step(self, connection: Connection, what: str) -> None:
        self.steps.append(what)
        if len(self.steps) == self._at:
            driver: Any = connection.connection.driver_connection
            if self._by == "transport":
                driver.terminate()
            elif self._by == "cancel":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            else:
                await_only(self._terminate(driver.get_server_pid()))

    async def _terminate(self, backend: int) -> None:
        async with self._sessions() as session:
            # With a time limit, it returns when the backend is gone.
            gone = await session.execute(text("SELECT pg_terminate_backend(:backend, 10000)"), {"backend": backend})
            assert gone.scalar_one()


class WitnessBus(InMemoryMessageBus):
    """Looks, at each publish, whether what it is given is committed."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self._rows = rows

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        committed = {row.id for row in await self._rows.all()}
        assert {envelope.id for envelope in as_list(events)} <= committed
        await super().publish(events)


async def _work(engine: AsyncEngine, tenant: str, bus: WitnessBus | None) -> None:
    """Rows by the ORM and by Core, a savepoint, and events before and after."""
    async with UnitOfWork(async_sessionmaker(engine), tenant_id=tenant, message_bus=bus, wake=False) as work:
        work.session.add(Note(tenant=tenant, number=1))
        register(Noted(1))
        async with work.session.begin_nested():
            await work.session.execute(insert(Note).values(tenant=tenant, number=2))
            register(Noted(2))
        await work.session.flush()
        event.listen(work.session.sync_session, "before_commit", lambda _: register(Noted(3)), once=True)
        work.session.add(Note(tenant=tenant, number=3))
        await work.commit()


@pytest.mark.parametrize("by", ["terminate", "transport"])
@pytest.mark.parametrize("directly", [False, True], ids=["projector", "direct-publish"])
async def test_row_and_event_agree_wherever_the_connection_is_killed(
    mortal_engine: AsyncEngine, sessions: Sessions, by: str, directly: bool
) -> None:
    tenant = unique("tenant")
    counting = Killer(mortal_engine, by, sessions)
    with counting.watching():
        await _work(mortal_engine, tenant, WitnessBus(Rows(sessions, tenant)) if directly else None)
    assert await Ledger(sessions, tenant).both() == ([1, 2, 3], [1, 2, 3])
    assert counting.steps.count("COMMIT") == (2 if directly else 1)
    assert len(counting.steps) >= 6

    business = counting.steps.index("COMMIT") + 1
    for at in range(1, len(counting.steps) + 1):
        tenant = unique("tenant")
        rows = Rows(sessions, tenant)
        bus = WitnessBus(rows)
        killer = Killer(mortal_engine, by, sessions, at)
        failed = False
        with killer.watching():
            try:
                await _work(mortal_engine, tenant, bus if directly else None)
            except (DBAPIError, OSError):
                failed = True

        both = await Ledger(sessions, tenant).both()
        step = f"killed before step {at}, {killer.steps[at - 1]!r}"
        assert both == (([], []) if at <= business else ([1, 2, 3], [1, 2, 3])), step
        assert failed is (at <= business), step
        assert [envelope.id for envelope in bus.published] == ([row.id for row in await rows.all()] if directly else [])


async def test_rows_that_could_not_be_settled_are_left_to_the_projector(
    mortal_engine: AsyncEngine, sessions: Sessions
) -> None:
    """They are published, stay NEW and held: once the hold is over the projector publishes them again."""
    counting = Killer(mortal_engine, "terminate", sessions)
    with counting.watching():
        first = unique("tenant")
        await _work(mortal_engine, first, WitnessBus(Rows(sessions, first)))
    rows = Rows(sessions, unique("tenant"))
    bus = WitnessBus(rows)

    with Killer(mortal_engine, "terminate", sessions, len(counting.steps)).watching():
        await _work(mortal_engine, rows.tenant, bus)

    assert len(bus.published) == 3
    assert [(row.status, row.available_at > row.created_at) for row in await rows.all()] == [("NEW", True)] * 3


@pytest.mark.parametrize("directly", [False, True], ids=["projector", "direct-publish"])
async def test_row_and_event_agree_wherever_the_task_is_cancelled(
    mortal_engine: AsyncEngine, sessions: Sessions, directly: bool
) -> None:
    """Whether a COMMIT that was cancelled took place, only the database knows: both are there, or neither."""
    counting = Killer(mortal_engine, "cancel", sessions)
    with counting.watching():
        tenant = unique("tenant")
        await _work(mortal_engine, tenant, WitnessBus(Rows(sessions, tenant)) if directly else None)

    business = counting.steps.index("COMMIT") + 1
    for at in range(1, len(counting.steps) + 1):
        tenant = unique("tenant")
        bus = WitnessBus(Rows(sessions, tenant))
        with Killer(mortal_engine, "cancel", sessions, at).watching():
            task = asyncio.create_task(_work(mortal_engine, tenant, bus if directly else None))
            assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)

        both = await Ledger(sessions, tenant).both()
        assert both in [([], [])] * (at <= business) + [([1, 2, 3], [1, 2, 3])] * (at >= business), f"before step {at}"
