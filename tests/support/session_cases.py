"""What an application does with a session, case by case: whatever it is, rows and events must be stored together.

Each case says which notes and which events there must be after whoever runs it has committed. It also says whether
a listener on `after_flush`, which is how this is often done, gets it right: where it does not, the case shows what
our way is for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from tests.support.notes import Note, Noted


class Desk:
    """What a case works with: a session, and a way to register events."""

    def __init__(self, session: Session, tenant: str, say: Callable[[Noted], object]) -> None:
        self.session = session
        self.tenant = tenant
        self._say = say

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self._say(Noted(number))

    def say_this(self, noted: Noted) -> None:
        self._say(noted)

    def note(self, number: int, **columns: Any) -> Note:
        """By the ORM, with its event."""
        note = Note(tenant=self.tenant, number=number, **columns)
        self.session.add(note)
        self.say(number)
        return note

    def note_by_statement(self, number: int) -> None:
        """By Core, with its event."""
        self.session.execute(insert(Note.__table__).values(id=uuid4(), tenant=self.tenant, number=number))
        self.say(number)

    def on(self, hook: str, act: Callable[[], object]) -> None:
        """Calls `act` the first time that the session calls the hook; after the library's own listeners."""
        event.listen(self.session, hook, lambda *_: act(), once=True)


@dataclass(frozen=True)
class Case:
    act: Callable[[Desk], object]
    notes: tuple[int, ...]
    events: tuple[int, ...]
    naive_copes: bool = False


CASES: dict[str, Case] = {}


def case(
    *, stored: tuple[int, ...] = (), events: tuple[int, ...] | None = None, naive_copes: bool = False
) -> Callable[[Callable[[Desk], object]], None]:
    """A case; whoever runs it commits at the end. stored: numbers of the notes, and of the events if not given."""

    def add(act: Callable[[Desk], object]) -> None:
        CASES[act.__name__] = Case(act, stored, stored if events is None else events, naive_copes)

    return add


@case(stored=(1, 2), naive_copes=True)
def orm_changes(desk: Desk) -> None:
    desk.note(1)
    desk.note(2)


@case(stored=(1, 2))
def core_statements_alone(desk: Desk) -> None:
    desk.note_by_statement(1)
    desk.note_by_statement(2)


@case(stored=(1, 2))
def an_orm_bulk_insert(desk: Desk) -> None:
    desk.session.execute(insert(Note), [{"tenant": desk.tenant, "number": number} for number in (1, 2)])
    desk.say(1, 2)


@case(stored=(1, 2))
def bulk_save_objects(desk: Desk) -> None:
    desk.session.bulk_save_objects([Note(tenant=desk.tenant, number=number) for number in (1, 2)])
    desk.say(1, 2)


@case(stored=(1,))
def a_statement_past_the_session(desk: Desk) -> None:
    desk.session.connection().execute(insert(Note.__table__).values(id=uuid4(), tenant=desk.tenant, number=1))
    desk.say(1)


@case(events=(1, 2, 3))
def events_alone(desk: Desk) -> None:
    desk.say(1, 2, 3)


@case(stored=(1,), events=(1, 2))
def after_the_last_flush(desk: Desk) -> None:
    desk.note(1)
    desk.session.flush()
    desk.say(2)


@case(stored=(1, 2), naive_copes=True)
def explicit_flushes(desk: Desk) -> None:
    desk.note(1)
    desk.session.flush()
    desk.note(2)
    desk.session.flush()


@case(stored=(1,), events=(1, 2), naive_copes=True)
def in_before_flush(desk: Desk) -> None:
    desk.on("before_flush", lambda: desk.say(2))
    desk.note(1)


@case(stored=(1,), events=(1, 2))
def in_after_flush(desk: Desk) -> None:
    desk.on("after_flush", lambda: desk.say(2))
    desk.note(1)


@case(stored=(1,), events=(1, 2))
def in_after_flush_postexec(desk: Desk) -> None:
    desk.on("after_flush_postexec", lambda: desk.say(2))
    desk.note(1)


@case(stored=(1,), events=(2,))
def in_after_flush_and_never_before(desk: Desk) -> None:
    desk.on("after_flush", lambda: desk.say(2))
    desk.session.add(Note(tenant=desk.tenant, number=1))


@case(stored=(1,), events=(1, 2))
def in_a_later_listener_of_before_commit(desk: Desk) -> None:
    desk.on("before_commit", lambda: desk.say(2))
    desk.note_by_statement(1)


@case(events=(1,))
def in_a_later_listener_of_before_commit_and_nothing_else(desk: Desk) -> None:
    desk.on("before_commit", lambda: desk.say(1))


@case(stored=(1, 2), naive_copes=True)
def work_in_a_later_listener_of_before_commit(desk: Desk) -> None:
    desk.on("before_commit", lambda: desk.note(2))
    desk.note_by_statement(1)


@case(stored=(1, 2, 3))
def a_savepoint_that_is_released(desk: Desk) -> None:
    desk.note_by_statement(1)
    with desk.session.begin_nested():
        desk.note_by_statement(2)
    desk.note_by_statement(3)


@case(stored=(1, 3))
def a_savepoint_that_is_rolled_back(desk: Desk) -> None:
    desk.note(1)
    savepoint = desk.session.begin_nested()
    desk.note(2)
    desk.session.flush()
    desk.say(2)
    savepoint.rollback()
    desk.note(3)


@case(stored=(1, 3))
def a_savepoint_that_is_closed(desk: Desk) -> None:
    desk.note(1)
    savepoint = desk.session.begin_nested()
    desk.note_by_statement(2)
    savepoint.close()
    desk.note(3)


@case(stored=(1, 2, 5, 6))
def an_inner_savepoint_that_is_rolled_back(desk: Desk) -> None:
    desk.note_by_statement(1)
    with desk.session.begin_nested():
        desk.note_by_statement(2)
        inner = desk.session.begin_nested()
        desk.note_by_statement(3)
        desk.note_by_statement(4)
        inner.rollback()
        desk.note_by_statement(5)
    desk.note_by_statement(6)


@case(stored=(1, 4))
def a_released_savepoint_within_one_that_is_rolled_back(desk: Desk) -> None:
    desk.note(1)
    outer = desk.session.begin_nested()
    desk.note(2)
    with desk.session.begin_nested():
        desk.note_by_statement(3)
    outer.rollback()
    desk.note(4)


@case(stored=(1, 4))
def an_open_savepoint_within_one_that_is_rolled_back(desk: Desk) -> None:
    desk.note(1)
    outer = desk.session.begin_nested()
    desk.note(2)
    desk.session.begin_nested()
    desk.note(3)
    desk.session.flush()
    desk.say(3)
    outer.rollback()
    desk.note(4)


@case(stored=(1,))
def two_savepoints_one_after_the_other_rolled_back(desk: Desk) -> None:
    for number in (2, 3):
        savepoint = desk.session.begin_nested()
        desk.note_by_statement(number)
        savepoint.rollback()
    desk.note_by_statement(1)


@case(stored=(1, 2))
def commit_with_savepoints_open(desk: Desk) -> None:
    desk.session.begin_nested()
    desk.note_by_statement(1)
    desk.session.begin_nested()
    desk.note_by_statement(2)


@case(stored=(1, 2))
def the_root_is_committed_with_savepoints_open(desk: Desk) -> None:
    """As `with session.begin():` does when a savepoint in the block was left open."""
    desk.note_by_statement(1)
    desk.session.begin_nested()
    desk.session.begin_nested()
    desk.note_by_statement(2)
    root = desk.session.get_transaction()
    assert root is not None
    root.commit()


@case(stored=(1, 3))
def an_error_of_a_flush_in_a_savepoint(desk: Desk) -> None:
    first = desk.note(1)
    desk.session.flush()

    def repeat() -> None:
        with desk.session.begin_nested():
            desk.note(2, id=first.id)

    first_id = first.id
    desk.session.expunge(first)
    first.id = first_id
    with pytest.raises(IntegrityError):
        repeat()
    desk.note(3)


@case(stored=(1, 3))
def an_error_of_a_statement_in_a_savepoint(desk: Desk) -> None:
    desk.note_by_statement(1)

    def fail() -> None:
        with desk.session.begin_nested():
            desk.note_by_statement(2)
            desk.session.execute(text("SELECT 1 / 0"))

    with pytest.raises(DBAPIError):
        fail()
    desk.note_by_statement(3)


@case(stored=(3,))
def an_error_of_the_commit_and_then_other_work(desk: Desk) -> None:
    twice = uuid4()
    desk.note_by_statement(1)
    desk.session.execute(insert(Note.__table__).values(id=twice, tenant=desk.tenant, number=2))
    desk.note(2, id=twice)
    with pytest.raises(IntegrityError):
        desk.session.commit()
    desk.session.rollback()
    desk.note(3)


@case(stored=(1, 2))
def a_commit_that_a_hook_refuses_and_then_another(desk: Desk) -> None:
    def refuse() -> None:
        raise ZeroDivisionError

    desk.note_by_statement(1)
    desk.on("before_commit", refuse)
    with pytest.raises(ZeroDivisionError):
        desk.session.commit()
    desk.note_by_statement(2)


@case(stored=(2,))
def a_rollback_and_then_other_work(desk: Desk) -> None:
    desk.note(1)
    desk.session.flush()
    desk.say(1)
    desk.session.rollback()
    desk.note(2)


@case(stored=(2,))
def a_rollback_of_events_alone(desk: Desk) -> None:
    desk.say(1)
    desk.session.rollback()
    desk.note(2)


@case(stored=(2,))
def a_close_and_then_other_work(desk: Desk) -> None:
    desk.note_by_statement(1)
    desk.session.close()
    desk.note(2)


@case(stored=(2,))
def a_rollback_with_savepoints_open(desk: Desk) -> None:
    desk.session.begin_nested()
    desk.note_by_statement(1)
    desk.session.begin_nested()
    desk.say(1)
    desk.session.rollback()
    desk.note_by_statement(2)


@case(stored=(1, 2, 3))
def several_commits(desk: Desk) -> None:
    for number in (1, 2):
        desk.note_by_statement(number)
        desk.session.commit()
    desk.note_by_statement(3)


@case(stored=(1,))
def an_empty_savepoint_before_all(desk: Desk) -> None:
    with desk.session.begin_nested():
        pass
    desk.note_by_statement(1)


@case(events=(1, 2))
def the_same_event_again(desk: Desk) -> None:
    noted = Noted(1)
    desk.say_this(noted)
    desk.say_this(noted)
    desk.session.commit()
    desk.say_this(noted)
    desk.say(2)


@case(events=(1,))
def the_same_event_in_a_savepoint_that_is_rolled_back(desk: Desk) -> None:
    noted = Noted(1)
    desk.say_this(noted)
    savepoint = desk.session.begin_nested()
    desk.say_this(noted)
    savepoint.rollback()
