"""The unit of work: business changes and their events, in one transaction or not at all.

    begin ──► the session is open, this unit of work is the current one of its context
      │         aggregates register events; each is encoded at once and waits in memory
    commit ─► before_commit: flush, then one INSERT of all that waits, in the same transaction
      │       COMMIT: rows and events are there, or neither is
    leave ──► without commit: ROLLBACK, the waiting events are forgotten; always: the previous unit of work
              of the context is current again

The INSERT hangs on the session's `before_commit`, so that `session.commit()` called by other code takes the
events along as well; it runs after a flush, so that events registered by flush hooks are among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from sqlalchemy import Table, event
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from bento_outbox import context
from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError, TenantMissing
from bento_outbox.event_types import DomainEvent, seal
from bento_outbox.table import insert_statement, outbox_table, row_of

_A = TypeVar("_A")


@runtime_checkable
class HoldsEvents(Protocol):
    """An aggregate that keeps its events itself, instead of registering them: `pull_events` hands them over once."""

    def pull_events(self) -> Sequence[DomainEvent]: ...


class Repository(Generic[_A]):
    """Aggregates of one class within a unit of work, which collects the events of all it has seen."""

    def __init__(self, session: AsyncSession, aggregate: type[_A], seen: list[Any]) -> None:
        self._session = session
        self._aggregate = aggregate
        self._seen = seen

    async def get(self, key: Any) -> _A | None:
        """The aggregate with this primary key, its row locked until the transaction ends; None if there is none.

        The lock is what makes the order of its events the order of commits.
        """
        found = await self._session.get(self._aggregate, key, with_for_update=True)
        if found is not None:
            self._seen.append(found)
        return found

    def add(self, aggregate: _A) -> None:
        """Adds a new aggregate: it is inserted when the unit of work commits."""
        self._session.add(aggregate)
        self._seen.append(aggregate)


class UnitOfWork:
    """One business transaction and the events that it causes.

        async with UnitOfWork(sessions, tenant_id="acme") as work:
            order = Order.place(...)            # calls register_event_from_aggregate
            work.repository(Order).add(order)
            await work.commit()

    Leaving the block without `commit` rolls back. Not for use by several tasks at once, as its session is not.
    """

    def __init__(
        self,
        session_factory: async_sessionmaker[AsyncSession],
        *,
        tenant_id: str | None = None,
        table: Table = outbox_table,
    ) -> None:
        """session_factory: opens the session. tenant_id: whose events these are. table: if not `public.outbox`."""
        self._session_factory = session_factory
        self._tenant_id = tenant_id
        self._insert = insert_statement(table)
        self._session: AsyncSession | None = None
        self._outer: UnitOfWork | None = None
        self._seen: list[Any] = []
        self._waiting: list[Envelope] = []

    @property
    def session(self) -> AsyncSession:
        """The session of the transaction. Raises MisuseError outside `begin` and the end."""
        if self._session is None:
            raise MisuseError("the unit of work has not begun: use it as `async with UnitOfWork(...) as work`")
        return self._session

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.rollback()
        finally:
            await self._cleanup()

    async def begin(self) -> None:
        """Opens the session and makes this the current unit of work. Raises MisuseError if it is already begun."""
        if self._session is not None:
            raise MisuseError("the unit of work has already begun: make a new one for each transaction")
        self._session = self._session_factory()
        event.listen(self._session.sync_session, "before_commit", self._drain)
        self._outer = context.current.get()
        context.current.set(self)

    def repository(self, aggregate: type[_A]) -> Repository[_A]:
        """The repository of a mapped class; events that its aggregates hold are collected at commit."""
        return Repository(self.session, aggregate, self._seen)

    def register(self, domain_event: DomainEvent) -> None:
        """Takes `domain_event` along. Raises TenantMissing, EventNotEncodable."""
        if not self._tenant_id:
            raise TenantMissing("the event has no tenant: give the unit of work a tenant_id")
        self._waiting.append(seal(domain_event, tenant_id=self._tenant_id))

    def collect_events(self) -> list[Envelope]:
        """The events that the next commit writes, in order, after asking the seen aggregates for those they hold."""
        for aggregate in self._seen:
            if isinstance(aggregate, HoldsEvents):
                for held in aggregate.pull_events():
                    self.register(held)
        return list(self._waiting)

    async def commit(self) -> None:
        """Commits business changes and events together. What the database raises is passed on, nothing is stored."""
        await self.session.commit()

    async def rollback(self) -> None:
        """Undoes everything since `begin` or the last commit; the registered events are forgotten."""
        self._waiting.clear()
        self._seen.clear()
        await self.session.rollback()

    async def _cleanup(self) -> None:
        session, self._session = self.session, None
        context.current.set(self._outer)
        event.remove(session.sync_session, "before_commit", self._drain)
        await session.close()

    def _drain(self, session: Session) -> None:
        if session.in_nested_transaction():
            # A savepoint is released. An INSERT now would be undone if one around it is rolled back.
            return
        session.flush()
        envelopes = self.collect_events()
        if envelopes:
            session.execute(self._insert, [row_of(envelope) for envelope in envelopes])
            self._waiting.clear()
