"""Events that wait in a session until its transaction commits.

    add ──► waiting, in memory
              │ before_commit of the root transaction: flush, then one INSERT of all that waits
              ▼
            written, in the same transaction as everything else of the session
              │ COMMIT
              ▼
            committed

Why not at each flush: a Core-only transaction, an ORM bulk insert, or an event registered after the last flush
have no flush that would come after. What `before_commit` does not see is handled one by one (`session_events.py`):

    an event registered by a later hook of the commit     written right before COMMIT, by the connection's own event
    the release of a savepoint                            writes nothing: the outer one may still be rolled back
    a savepoint that is rolled back                       takes the events registered since it began along; earlier
                                                          ones that were written within it wait again
    rollback, or close without commit                     forgets all
    a session on a connection of somebody else            written at each flush as well, and when that connection
                                                          commits: the session's own commit may never be called.
                                                          (Closed after Core statements alone, without a flush or a
                                                          commit, such a session forgets its events: commit it.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction

from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError


class Writer(Protocol):
    """Writes into one table."""

    def bind_of(self, session: Session) -> Engine | Connection:
        """Where the session finds the table."""
        ...

    def connection_of(self, session: Session) -> Connection:
        """The session's connection to the table, checked out if it is not yet."""
        ...

    def __call__(
        self, connection: Connection, envelopes: Sequence[Envelope], hold_seconds: Sequence[float]
    ) -> set[UUID]:
        """Writes with one statement. Returns the ids that were there before."""
        ...


class Source(Protocol):
    """Something that holds events itself, such as the aggregates that a unit of work has seen."""

    def collect(self) -> None:
        """Registers what it holds."""
        ...

    def forget(self) -> None:
        """Drops what it holds: the transaction, or a savepoint, was rolled back."""
        ...


def no_hold(_envelope: Envelope) -> float:
    """The projector may have the row at once."""
    return 0.0


@dataclass(frozen=True, slots=True)
class _Mark:
    registered: int = 0
    written: int = 0


_BEGINNING = _Mark()


class _Queue:
    """The events for one table, in order; the first `written` of them are in the table, the others wait."""

    def __init__(self) -> None:
        self.events: list[Envelope] = []
        self._written = 0
        self._known: set[UUID] = set()  # among the written: their rows were there before

    @property
    def waiting(self) -> list[Envelope]:
        return self.events[self._written :]

    @property
    def has_waiting(self) -> bool:
        return self._written < len(self.events)

    def write(self, writer: Writer, connection: Connection, hold: Callable[[Envelope], float]) -> None:
        waiting = self.waiting
        if known := writer(connection, waiting, [hold(envelope) for envelope in waiting]):
            # A row that this transaction wrote a moment ago, for the same event, is new all the same.
            self._known |= known - {envelope.id for envelope in self.events[: self._written]}
        self._written += len(waiting)

    def mark(self) -> _Mark:
        return _Mark(len(self.events), self._written)

    def back_to(self, mark: _Mark) -> None:
        del self.events[mark.registered :]
        self._written = min(self._written, mark.written)
        self._known &= {envelope.id for envelope in self.events[: self._written]}

    def inserted(self) -> list[Envelope]:
        """Those whose row this transaction has made; the others were there before."""
        written = self.events[: self._written]
        return [envelope for envelope in written if envelope.id not in self._known] if self._known else written


class Pending:
    """The events of one session's transaction.

    sources    asked for the events they hold, before each write
    holds      by table, how long the projector leaves the row of an event alone, in seconds
    committed  by table, the events whose rows the last commit made
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.sources: list[Source] = []
        self.holds: dict[Writer, Callable[[Envelope], float]] = {}
        self.committed: dict[Writer, list[Envelope]] = {}
        self._queues: dict[Writer, _Queue] = {}
        self._marks: dict[SessionTransaction, dict[Writer, _Mark]] = {}
        self._was_committed = False

    @property
    def waiting(self) -> list[Envelope]:
        """What the next write will write."""
        return [envelope for queue in self._queues.values() for envelope in queue.waiting]

    @property
    def is_joined(self) -> bool:
        """Whether some of the events go to a table that lies on a connection of somebody else."""
        return any(isinstance(writer.bind_of(self.session), Connection) for writer in self._queues)

    def add(self, writer: Writer, envelope: Envelope) -> None:
        """Takes an event along."""
        queue = self._queues.get(writer)
        if queue is None:
            queue = self._queues[writer] = _Queue()
        queue.events.append(envelope)

    def collect(self) -> bool:
        """Asks the sources. Returns whether anything waits."""
        for source in self.sources:
            source.collect()
        return any(queue.has_waiting for queue in self._queues.values())

    def write(self, *, over: Connection | None = None) -> None:
        """Writes all that waits, one statement a table. over: this connection alone, past the session."""
        if not self.collect():
            return
        for writer, queue in self._queues.items():
            if not queue.has_waiting:
                continue
            hold = self.holds.get(writer, no_hold)
            if over is None:
                queue.write(writer, writer.connection_of(self.session), hold)
            elif writer.bind_of(self.session) in (over, over.engine):
                queue.write(writer, over, hold)

    def savepoint(self, transaction: SessionTransaction) -> None:
        """A savepoint begins: what is registered from now on goes with it."""
        self.collect()
        self._marks[transaction] = {writer: queue.mark() for writer, queue in self._queues.items()}

    def savepoint_exists(self, transaction: SessionTransaction) -> None:
        """A savepoint that began before anything was registered."""
        self._marks[transaction] = {}

    def savepoint_released(self, transaction: SessionTransaction) -> None:
        """What was registered in it belongs to what is around it."""
        self._marks.pop(transaction, None)

    def savepoint_ended(self, transaction: SessionTransaction) -> None:
        """If it was not released, it was rolled back."""
        marks = self._marks.pop(transaction, None)
        if marks is None:
            return
        for source in self.sources:
            source.forget()
        for writer, queue in self._queues.items():
            queue.back_to(marks.get(writer, _BEGINNING))

    def root_committed(self) -> None:
        """The transaction is committed. Raises MisuseError if events were left behind: nothing may be lost silently."""
        left_behind = len(self.waiting)
        self.committed = {writer: queue.inserted() for writer, queue in self._queues.items()}
        self._clear()
        self._was_committed = True
        if left_behind:
            raise MisuseError(
                f"{left_behind} event(s) came too late for the commit and are not stored: "
                "register them before it, not in the hooks of a commit that has no connection yet"
            )

    def root_ended(self) -> None:
        """The transaction is over; what was not committed is forgotten."""
        if not self._was_committed:
            for source in self.sources:
                source.forget()
        self._was_committed = False
        self._clear()

    def _clear(self) -> None:
        self._queues.clear()
        self._marks.clear()
