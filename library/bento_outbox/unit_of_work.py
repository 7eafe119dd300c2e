"""The unit of work: business changes and their events, in one transaction or not at all.

    begin ──► the session is open, this unit of work is the current one of its context
      │         aggregates register events; each is encoded at once and waits in the session
    commit ─► one INSERT of all that waits, in the same transaction; COMMIT: rows and events are there, or neither
      │       then, outside any transaction: with a message bus, publish at once; without, wake the projector
    leave ──► without commit: ROLLBACK, the waiting events are forgotten; always: the previous unit of work of the
              context is current again

How events wait, and get into the transaction whatever commits it, is in `pending.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, runtime_checkable

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import context
from bento_outbox.bus import MessageBus
from bento_outbox.direct_publish import DirectPublish, DirectPublisher
from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError
from bento_outbox.event_types import DomainEvent
from bento_outbox.outbox import Outbox
from bento_outbox.pending import is_joined, pending_of
from bento_outbox.waking import channel_of, waker_of

_A = TypeVar("_A")
_DEFAULT = Outbox()


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
            self.track(found)
        return found

    def add(self, aggregate: _A) -> None:
        """Adds a new aggregate: it is inserted when the unit of work commits."""
        self._session.add(aggregate)
        self.track(aggregate)

    def track(self, aggregate: _A) -> None:
        """Collects the events of an aggregate that was loaded by a query of your own."""
        if not any(known is aggregate for known in self._seen):
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
        outbox: Outbox = _DEFAULT,
        tenant_id: str | None = None,
        message_bus: MessageBus | None = None,
        direct_publish: DirectPublish | None = None,
        wake: bool = True,
    ) -> None:
        """session_factory: opens the session.

        outbox: table, tenant and codec of the application.
        tenant_id: whose events these are, if the outbox or the context does not say.
        message_bus: publish right after the commit, as `direct_publish` says; the projector delivers what fails.
        wake: without a bus, tell the projector after the commit; otherwise it finds the events by polling.
        """
        self._session_factory = session_factory
        self._outbox = outbox
        self._tenant_id = tenant_id
        self._message_bus = message_bus
        self._policy = direct_publish or DirectPublish()
        self._wake = wake
        self._session: AsyncSession | None = None
        self._outer: context.Registrar | None = None
        self._seen: list[Any] = []

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
        await self._cleanup()

    async def begin(self) -> None:
        """Opens the session and makes this the current unit of work. Raises MisuseError if it is already begun."""
        if self._session is not None:
            raise MisuseError("the unit of work has already begun: make a new one for each transaction")
        self._session = self._session_factory()
        pending_of(self._session).collectors.append(self._pull_events)
        self._outer = context.current.get()
        context.current.set(self)

    def repository(self, aggregate: type[_A]) -> Repository[_A]:
        """The repository of a mapped class; events that its aggregates hold are collected at commit."""
        return Repository(self.session, aggregate, self._seen)

    def register(
        self,
        event: DomainEvent,
        *,
        headers: Mapping[str, str] | None = None,
        ordering_key: str | None = None,
        topic: str | None = None,
    ) -> Envelope:
        """Takes `event` along. Raises TenantMissing, EventNotEncodable, MisuseError."""
        return self._outbox.add(
            self.session,
            event,
            tenant_id=self._tenant_id,
            headers=headers,
            ordering_key=ordering_key,
            topic=topic,
        )

    def collect_events(self) -> list[Envelope]:
        """The events that the next commit writes, in order, after asking the seen aggregates for those they hold."""
        self._pull_events()
        return pending_of(self.session).waiting

    async def commit(self) -> None:
        """Commits business changes and events together, then publishes them or wakes the projector.

        What the database raises is passed on, nothing is stored. Nothing is raised after the commit.
        """
        session = self.session
        pending = pending_of(session)
        joined = is_joined(session.sync_session)
        publisher = None if joined else self._publisher()
        if publisher is not None:
            pending.hold = publisher.policy.holds
        began = asyncio.get_running_loop().time()
        await session.commit()
        written = pending.take_written()
        if publisher is not None:
            await publisher.publish(written, held_since=began)
        elif self._wake and not joined:
            self._wake_projectors(written)

    async def rollback(self) -> None:
        """Undoes everything since `begin` or the last commit; the registered events are forgotten."""
        self._seen.clear()
        await self.session.rollback()

    async def _cleanup(self) -> None:
        session, self._session = self.session, None
        context.current.set(self._outer)
        self._seen.clear()
        pending_of(session).collectors.remove(self._pull_events)
        await session.close()

    def _pull_events(self) -> None:
        for aggregate in self._seen:
            if isinstance(aggregate, HoldsEvents):
                for event in aggregate.pull_events():
                    self.register(event)

    def _publisher(self) -> DirectPublisher | None:
        if self._message_bus is None:
            return None
        return DirectPublisher(
            bus=self._message_bus,
            table=self._outbox.table,
            session_factory=self._session_factory,
            policy=self._policy,
        )

    def _wake_projectors(self, written: list[Envelope]) -> None:
        bind = self.session.bind
        if isinstance(bind, AsyncEngine):
            for tenant_id in {event.tenant_id for event in written}:
                waker_of(bind).wake(channel_of(self._outbox.table, tenant_id))
