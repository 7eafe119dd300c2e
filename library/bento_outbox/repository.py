"""Aggregates within a unit of work, and the events that they hold.

An aggregate may register its events (`register_event_from_aggregate`) or hold them until it is asked: the unit of work
asks all that its repositories have seen, before it writes and before a savepoint begins. Rolled back with the
transaction or with a savepoint, they are asked once more and the answer is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox.event_types import DomainEvent

_A = TypeVar("_A")


@runtime_checkable
class HoldsEvents(Protocol):
    """An aggregate that keeps its events itself, instead of registering them: `pull_events` hands them over once."""

    def pull_events(self) -> Sequence[DomainEvent]: ...


class Seen:
    """The aggregates that a unit of work has seen."""

    def __init__(self, register: Callable[[DomainEvent], object]) -> None:
        self._register = register
        self._aggregates: dict[int, Any] = {}
        self._pulled: deque[DomainEvent] = deque()  # handed over, and not registered yet

    def add(self, aggregate: Any) -> None:
        """From now on the aggregate is asked for its events. Idempotent."""
        self._aggregates[id(aggregate)] = aggregate

    def clear(self) -> None:
        """Asks none of them any more."""
        self._aggregates.clear()
        self._pulled.clear()

    def collect(self) -> None:
        """Registers the events that they hold. One that is refused stays, so that no commit goes on without it."""
        self._pull()
        while self._pulled:
            self._register(self._pulled[0])
            self._pulled.popleft()

    def forget(self) -> None:
        """Drops the events that they hold."""
        self._pull()
        self._pulled.clear()

    def _pull(self) -> None:
        for aggregate in tuple(self._aggregates.values()):
            if isinstance(aggregate, HoldsEvents):
                self._pulled.extend(aggregate.pull_events())


class Repository(Generic[_A]):
    """Aggregates of one class within a unit of work, which collects the events of all it has seen."""

    def __init__(self, session: AsyncSession, aggregate: type[_A], seen: Seen) -> None:
        self._session = session
        self._aggregate = aggregate
        self._seen = seen

    async def get(self, key: Any) -> _A | None:
        """The aggregate with this primary key, its row locked until the transaction ends; None if there is none.

        The lock is what makes the order of its events the order of commits. What the session had of it before is read
        anew, since somebody may have changed it until it was locked. Only its own row is locked, not what it is joined
        to.
        """
        # Reading anew would undo what is not yet flushed.
        await self._session.flush()
        found = await self._session.get(
            self._aggregate, key, populate_existing=True, with_for_update={"of": self._aggregate}
        )
        if found is not None:
            self.track(found)
        return found

    async def get_one(self, key: Any) -> _A:
        """The same where there must be one. Raises SQLAlchemy's NoResultFound."""
        found = await self.get(key)
        if found is None:
            raise NoResultFound(f"there is no {self._aggregate.__name__} with the primary key {key!r}")
        return found

    def add(self, aggregate: _A) -> None:
        """Adds a new aggregate: it is inserted when the unit of work commits."""
        self._session.add(aggregate)
        self.track(aggregate)

    def track(self, aggregate: _A) -> None:
        """Collects the events of an aggregate that was loaded by a query of your own."""
        self._seen.add(aggregate)
