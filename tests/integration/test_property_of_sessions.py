"""Whatever sequence of steps a session takes, the table holds what a simple model says; on the real Postgres.

The model knows nothing of flushes or hooks: a transaction is a list of what was done, savepoints are positions in it,
and what is committed is moved to what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session, SessionTransaction

from bento_outbox import Outbox
from bento_outbox.database_url import parse_database_url
from tests.conftest import unique
from tests.support.notes import Note, Noted, create_tables, numbers

SAVEPOINTS = ("savepoint", "release", "undo", "undo outer")
STEPS = ("register", "add", "insert", "flush", *SAVEPOINTS, "commit", "rollback", "close")
PAIRS = ("add with event", "insert with event", "flush", *SAVEPOINTS, "commit")


def sequences_of(steps: tuple[str, ...]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(steps), max_size=14)


LENIENT = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture(scope="module")
def sync_engine(database_url: str) -> Iterator[Engine]:
    engine = create_engine(parse_database_url(database_url).set(drivername="postgresql+psycopg"))
    yield engine
    engine.dispose()


@dataclass
class Model:
    """Notes are positive numbers, events negative ones: one list keeps both in order."""

    stored: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    savepoints: list[int] = field(default_factory=list)

    def commit(self) -> None:
        self.stored += self.done
        self.forget()

    def forget(self) -> None:
        self.done, self.savepoints = [], []

    def back_to(self, depth: int) -> None:
        del self.done[self.savepoints[depth] :]
        del self.savepoints[depth:]

    def numbers(self) -> tuple[list[int], list[int]]:
        return sorted(n for n in self.stored if n > 0), [-n for n in self.stored if n < 0]


class Run:
    """Takes each step with the session and with the model."""

    def __init__(self, session: Session, tenant: str) -> None:
        self.session = session
        self.model = Model()
        self._tenant = tenant
        self._outbox = Outbox(tenant=tenant)
        self._numbers = count(1)
        self._savepoints: list[SessionTransaction] = []

    def take(self, step: str) -> None:
        getattr(self, "_" + step.replace(" ", "_"))()

    def _register(self) -> None:
        number = next(self._numbers)
        self._outbox.add(self.session, Noted(number))
        self.model.done.append(-number)

    def _add(self) -> None:
        number = next(self._numbers)
        self.session.add(Note(tenant=self._tenant, number=number))
        self.model.done.append(number)

    def _insert(self) -> None:
        number = next(self._numbers)
        self.session.execute(insert(Note.__table__).values(id=uuid4(), tenant=self._tenant, number=number))
        self.model.done.append(number)

    def _add_with_event(self) -> None:
        self._add()
        self._register()

    def _insert_with_event(self) -> None:
        self._insert()
        self._register()

    def _flush(self) -> None:
        self.session.flush()

    def _savepoint(self) -> None:
        self._savepoints.append(self.session.begin_nested())
        self.model.savepoints.append(len(self.model.done))

    def _release(self) -> None:
        if self._savepoints:
            self._savepoints.pop().commit()
            self.model.savepoints.pop()

    def _undo(self) -> None:
        if self._savepoints:
            self._savepoints.pop().rollback()
            self.model.back_to(-1)

    def _undo_outer(self) -> None:
        if self._savepoints:
            self._savepoints[0].rollback()
            self._savepoints.clear()
            self.model.back_to(0)

    def _commit(self) -> None:
        self.session.commit()
        self._savepoints.clear()
        self.model.commit()

    def _rollback(self) -> None:
        self.session.rollback()
        self._savepoints.clear()
        self.model.forget()

    def _close(self) -> None:
        self.session.close()
        self._savepoints.clear()
        self.model.forget()


@settings(LENIENT, max_examples=80)
@given(steps=sequences_of(STEPS))
def test_the_table_holds_what_the_model_says(sync_engine: Engine, steps: list[str]) -> None:
    tenant = unique("tenant")
    with Session(sync_engine) as session, Session(sync_engine) as looking:
        run = Run(session, tenant)
        for step in [*steps, "close"]:
            run.take(step)
            if step in ("commit", "rollback", "close"):
                assert numbers(looking, tenant) == run.model.numbers()
                looking.rollback()


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only"])
@settings(LENIENT, max_examples=40)
@given(steps=sequences_of(PAIRS))
def test_what_is_left_open_on_a_connection_of_somebody_else_is_committed_with_it(
    sync_engine: Engine, mode: str, steps: list[str]
) -> None:
    tenant = unique("tenant")
    with sync_engine.connect() as connection, Session(sync_engine) as looking:
        connection.begin()
        session = Session(connection, join_transaction_mode=mode)  # type: ignore[arg-type] # a parameter of the test
        run = Run(session, tenant)
        for step in steps:
            run.take(step)
        assert numbers(looking, tenant) == ([], [])
        looking.rollback()

        connection.commit()
        run.model.commit()

        assert numbers(looking, tenant) == run.model.numbers()
        session.close()


def test_the_runs_do_reach_the_table(sync_engine: Engine) -> None:
    tenant = unique("tenant")
    with Session(sync_engine) as session, Session(sync_engine) as looking:
        run = Run(session, tenant)
        for step in ("register", "savepoint", "insert", "register", "undo", "add", "register", "commit"):
            run.take(step)

        assert numbers(looking, tenant) == run.model.numbers() == ([4], [1, 5])
