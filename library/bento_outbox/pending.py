"""Events that wait in a session until its transaction commits.

    add ──► waiting, in memory
              │ before_commit of the root transaction: flush, then one INSERT of all that waits
              ▼
            written, in the same transaction as everything else of the session

Why not at each flush: a Core-only transaction, an ORM bulk insert, or an event registered after the last flush
have no flush that would come after. `before_commit` comes in all of these. What it cannot see is handled one by one:

    an event registered by a later before_commit or flush hook      written at once, since the write has been
    the release of a savepoint (before_commit fires for it as well)  nothing is written: the outer may still roll back
    the rollback of a savepoint                                      takes the events registered since it began along
    rollback or close                                                forgets all
    a session that joined a transaction of somebody else            also written at each flush: its own commit may
                                                                    never be called

Everything hangs on the sync Session, which an AsyncSession drives. The listeners are installed once for all sessions
and return at once for those without events.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError

_KEY = "bento_outbox.pending"
AnySession = Session | AsyncSession


class Writer(Protocol):
    """Writes events into one table, with a statement of the session."""

    def __call__(self, session: Session, envelopes: list[Envelope], hold_seconds: list[float]) -> None: ...


def _no_hold(_envelope: Envelope) -> float:
    return 0.0


class Pending:
    """The waiting events of one session.

    collectors  asked for events before each write; a unit of work asks its aggregates
    hold        how long the projector leaves the row of an event alone, in seconds
    written     the events of the current transaction that are in the table, until `take_written`
    """

    def __init__(self, session: Session) -> None:
        self.collectors: list[Callable[[], None]] = []
        self.hold: Callable[[Envelope], float] = _no_hold
        self.written: list[Envelope] = []
        self._session = session
        self._waiting: list[tuple[Writer, Envelope]] = []
        self._committing = False
        self._marks: dict[SessionTransaction, int] = {}
        savepoint = session.get_nested_transaction()
        while savepoint is not None:
            self._marks[savepoint] = 0
            savepoint = savepoint.parent if savepoint.parent is not None and savepoint.parent.nested else None

    @property
    def waiting(self) -> list[Envelope]:
        """What the next write will write."""
        return [envelope for _, envelope in self._waiting]

    def add(self, writer: Writer, envelope: Envelope) -> None:
        """Takes an event along; written at once when the write of this commit has been already."""
        self._waiting.append((writer, envelope))
        if self._committing:
            self.write()

    def write(self) -> None:
        """Writes all that waits, one statement a table."""
        for collect in self.collectors:
            collect()
        waiting, self._waiting = self._waiting, []
        by_writer: dict[Writer, list[Envelope]] = {}
        for writer, envelope in waiting:
            by_writer.setdefault(writer, []).append(envelope)
        for writer, envelopes in by_writer.items():
            writer(self._session, envelopes, [self.hold(envelope) for envelope in envelopes])
            self.written += envelopes

    def take_written(self) -> list[Envelope]:
        """The events that were written since the last call."""
        taken, self.written = self.written, []
        return taken

    def begin_commit(self) -> None:
        """Writes now, and from now on whatever comes late."""
        self.write()
        self._committing = True

    def mark(self, savepoint: SessionTransaction) -> None:
        """Remembers what was registered before the savepoint."""
        self._marks[savepoint] = len(self._waiting)

    def rolled_back(self, transaction: SessionTransaction) -> None:
        """Forgets what the transaction, whole or to a savepoint, takes along."""
        if transaction.nested:
            del self._waiting[self._marks.get(transaction, 0) :]
        elif transaction.parent is None:
            self._waiting.clear()
            self.written.clear()

    def ended(self, transaction: SessionTransaction) -> None:
        """After commit, rollback or close of the root. (For a savepoint it comes before `rolled_back`.)"""
        if transaction.parent is None:
            self._waiting.clear()
            self._marks.clear()
            self._committing = False


def pending_of(session: AnySession) -> Pending:
    """The waiting events of a session."""
    sync = session.sync_session if isinstance(session, AsyncSession) else session
    found: Pending | None = sync.info.get(_KEY)
    if found is None:
        _install()
        found = sync.info[_KEY] = Pending(sync)
    return found


def is_joined(session: Session) -> bool:
    """Whether the session works on a connection, and so perhaps in a transaction, that is somebody else's."""
    return isinstance(session.bind, Connection)


def refuse_autocommit(connection: Connection) -> None:
    """Raises MisuseError on a connection in AUTOCOMMIT: row and event would be two transactions."""
    if connection.dialect.detect_autocommit_setting(connection.connection.dbapi_connection):  # type: ignore[arg-type] # checked out, so there is one
        raise MisuseError(
            "the engine is in AUTOCOMMIT, where business rows and events are not stored together: "
            "use an engine without isolation_level='AUTOCOMMIT'"
        )


@cache
def _install() -> None:
    for name, listener in _LISTENERS.items():
        event.listen(Session, name, listener)


def _find(session: Session) -> Pending | None:
    return session.info.get(_KEY)


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    if _find(session):
        refuse_autocommit(connection)


def _before_commit(session: Session) -> None:
    if (pending := _find(session)) and not session.in_nested_transaction():
        session.flush()
        pending.begin_commit()


def _after_flush(session: Session, _context: Any) -> None:
    if (pending := _find(session)) and is_joined(session) and not session.in_nested_transaction():
        pending.write()


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and (pending := _find(session)):
        pending.mark(transaction)


def _after_soft_rollback(session: Session, transaction: SessionTransaction) -> None:
    if pending := _find(session):
        pending.rolled_back(transaction)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if pending := _find(session):
        pending.ended(transaction)


_LISTENERS: dict[str, Callable[..., None]] = {
    "after_begin": _after_begin,
    "before_commit": _before_commit,
    "after_flush": _after_flush,
    "after_transaction_create": _after_transaction_create,
    "after_soft_rollback": _after_soft_rollback,
    "after_transaction_end": _after_transaction_end,
}
