"""What a session does, told to its waiting events. (What becomes of them is in `pending.py`.)

Everything hangs on the sync Session, which an AsyncSession drives, and on the connections it uses. The listeners are
installed once for all sessions and return at once for those without events.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, Table, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError
from bento_outbox.pending import Pending, Writer

AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]

_PENDING = "bento_outbox.pending"
_COMMIT = "bento_outbox.commit"  # of the root transaction: "begun", then "done" until the transaction ends
_pending_on: WeakKeyDictionary[Connection, WeakSet[Pending]] = WeakKeyDictionary()


def pending_of(session: AnySession) -> Pending:
    """The waiting events of a session. Raises MisuseError when its transaction is in AUTOCOMMIT."""
    sync = _sync(session)
    return _find(sync) or _attach(sync)


def take_along(session: AnySession, writer: Writer, envelope: Envelope) -> None:
    """Lets an event wait in the session, whose transaction begins now if it has not. Raises MisuseError."""
    sync = _sync(session)
    if sync.info.get(_COMMIT) == "done":
        raise MisuseError(
            f"event {envelope.type!r} came after the commit of its transaction and is not stored: "
            "register it before the commit, or in a transaction of its own"
        )
    pending = pending_of(sync)
    if not sync.in_transaction():
        # As after session.add: what there is to commit or to roll back is a transaction.
        if not sync.autobegin:
            raise MisuseError("the session has autobegin=False and has not begun: call session.begin() before")
        sync.begin()
    pending.add(writer, envelope)
    if sync.info.get(_COMMIT) and not _connections(sync):
        # Without a connection there would be no COMMIT that could take it along.
        writer.connection_of(sync)


def is_joined(session: Session, table: Table) -> bool:
    """Whether the session finds the table on a connection, and so perhaps in a transaction, that is somebody else's."""
    try:
        return isinstance(session.get_bind(clause=table), Connection)
    except UnboundExecutionError:
        return False  # nor will it write there


@cache
def listen() -> None:
    """Installs the listeners; before anything is registered, since a hook of a commit may be the first to do so."""
    for name, listener in _LISTENERS.items():
        event.listen(Session, name, listener)
    event.listen(Engine, "commit", _connection_commits)
    event.listen(Engine, "rollback", _connection_rolls_back)


def _sync(session: AnySession) -> Session:
    if isinstance(session, AsyncSession):
        return session.sync_session
    return session if isinstance(session, Session) else _sync(session())


def _find(session: Session) -> Pending | None:
    return session.info.get(_PENDING)


def _attach(session: Session) -> Pending:
    listen()
    if session.twophase:
        raise MisuseError(
            "the session has twophase=True, and nothing tells when a prepared transaction is committed: "
            "use a session without it"
        )
    for connection in _connections(session):
        _refuse_autocommit(connection)
    pending: Pending = Pending(session)
    session.info[_PENDING] = pending
    savepoint = session.get_nested_transaction()
    while savepoint is not None and savepoint.nested:
        pending.savepoint_exists(savepoint)
        savepoint = savepoint.parent
    for connection in {*_connections(session), *([session.bind] if isinstance(session.bind, Connection) else [])}:
        _watch(connection, pending)
    return pending


def _connections(session: Session) -> Collection[Connection]:
    """The connections that the transaction uses by now."""
    root = session.get_transaction()
    if root is None:
        return ()
    if hasattr(root, "connections"):
        return root.connections
    return {entry[0] for entry in root._connections.values()}  # SQLAlchemy before 2.1.7


def _watch(connection: Connection, pending: Pending) -> None:
    _pending_on.setdefault(connection, WeakSet()).add(pending)


def _refuse_autocommit(connection: Connection) -> None:
    if connection.dialect.detect_autocommit_setting(connection.connection.dbapi_connection):  # type: ignore[arg-type] # checked out, so there is one
        raise MisuseError(
            "the engine is in AUTOCOMMIT, where business rows and events are not stored together: "
            "use an engine without isolation_level='AUTOCOMMIT'"
        )


def _after_begin(session: Session, _transaction: SessionTransaction, connection: Connection) -> None:
    if pending := _find(session):
        _refuse_autocommit(connection)
        _watch(connection, pending)


def _before_commit(session: Session) -> None:
    if session.in_nested_transaction():
        # Of a savepoint, or of the root with savepoints open: SQLAlchemy does not say which. The connection will.
        return
    session.info[_COMMIT] = "begun"
    if (pending := _find(session)) and (pending.waiting or pending.sources):
        # First the rows, then their events: an aggregate's row is locked before its events get their place.
        session.flush()
        pending.write()


def _connection_commits(connection: Connection) -> None:
    """Right before COMMIT, whoever wants it: the last moment for events that came after `before_commit`."""
    for pending in tuple(_pending_on.get(connection, ())):
        try:
            if pending.collect():
                pending.session.flush()
                pending.write(over=connection)
        except BaseException:
            # For SQLAlchemy the transaction is over once its commit was tried, but in the database it would live on.
            connection.invalidate()
            raise


def _connection_rolls_back(connection: Connection) -> None:
    """Somebody else's transaction takes along what a session that joined it has not written yet."""
    for pending in tuple(_pending_on.get(connection, ())):
        if pending.is_joined:
            pending.root_ended()


def _after_flush(session: Session, _context: Any) -> None:
    if (pending := _find(session)) and (isinstance(session.bind, Connection) or pending.is_joined):
        pending.write()


def _after_commit(session: Session) -> None:
    savepoint = session.get_nested_transaction()
    if savepoint is None:
        session.info[_COMMIT] = "done"
    if pending := _find(session):
        if savepoint is None:
            pending.root_committed()
        else:
            pending.savepoint_released(savepoint)


def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    if transaction.nested and (pending := _find(session)):
        pending.savepoint(transaction)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(_COMMIT, None)
    if pending := _find(session):
        if transaction.nested:
            pending.savepoint_ended(transaction)
        elif transaction.parent is None:
            pending.root_ended()


_LISTENERS: dict[str, Callable[..., None]] = {
    "after_begin": _after_begin,
    "before_commit": _before_commit,
    "after_flush": _after_flush,
    "after_commit": _after_commit,
    "after_transaction_create": _after_transaction_create,
    "after_transaction_end": _after_transaction_end,
}
