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
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox import context
from bento_outbox.bus import MessageBus
from bento_outbox.channels import channel_of
from bento_outbox.direct_publish import DirectPublish, DirectPublisher
from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError, NoActiveUnitOfWork
from bento_outbox.event_types import DomainEvent
from bento_outbox.outbox import Outbox
from bento_outbox.repository import Repository, Seen
from bento_outbox.rows import writer_of
from bento_outbox.session_events import is_joined, pending_of
from bento_outbox.waking import waker_of

_A = TypeVar("_A")
_DEFAULT = Outbox()


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
        wake: tell the projector after the commit of what is left to it; otherwise it finds the events by polling.
        """
        self._session_factory = session_factory
        self._outbox = outbox
        self._tenant_id = tenant_id
        self._message_bus = message_bus
        self._policy = direct_publish or DirectPublish()
        self._wake = wake
        self._session: AsyncSession | None = None
        self._outer: context.Registrar | None = None
        self._seen = Seen(self.register)

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
        """Opens the session and makes this the current unit of work. Raises MisuseError if it has begun already."""
        if self._session is not None:
            raise MisuseError("the unit of work has already begun: make a new one for each transaction")
        session = self._session_factory()
        if not isinstance(session, AsyncSession):
            raise MisuseError(
                f"the session factory makes a {type(session).__name__}, but a unit of work needs an AsyncSession: "
                "give it an async_sessionmaker, or use Outbox.add with a sync session"
            )
        self._session = session
        pending_of(self._session).sources.append(self._seen)
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
        """Takes `event` along. Raises NoActiveUnitOfWork, TenantMissing, EventNotEncodable, MisuseError."""
        if self._session is None:
            raise NoActiveUnitOfWork(
                f"{type(event).__name__} was registered with a unit of work that is not open, or no longer: "
                "await the tasks that you start in the block before it ends"
            )
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
        pending = pending_of(self.session)
        pending.collect()
        return pending.waiting

    async def commit(self) -> None:
        """Commits business changes and events together, then publishes them or wakes the projector.

        What the database raises is passed on, nothing is stored. Nothing is raised after the commit, unless the task
        is cancelled, and the projector then delivers; or a hook of the application registered an event after the
        commit, which is a MisuseError.
        """
        session = self.session
        pending = pending_of(session)
        joined = is_joined(session.sync_session, self._outbox.table)
        publisher = None if joined else self._publisher()
        began = asyncio.get_running_loop().time()
        writer = writer_of(self._outbox.table)
        if publisher:
            pending.holds[writer] = publisher.policy.holds
        try:
            await session.commit()
        finally:
            # Whoever commits the session after us does not publish.
            pending.holds.clear()
        left = pending.committed.get(writer, [])
        if publisher is not None:
            left = await publisher.publish(left, held_since=began)
        if self._wake and not joined:
            self._wake_projectors(left)

    async def rollback(self) -> None:
        """Undoes everything since `begin` or the last commit; the registered events are forgotten."""
        await self.session.rollback()
        self._seen.forget()  # also where there was no transaction to roll back

    async def _cleanup(self) -> None:
        session, self._session = self.session, None
        context.current.set(self._outer)
        try:
            # As `async with session` does it: not to be interrupted, or the connection would stay checked out.
            await session.__aexit__(None, None, None)
        finally:
            pending_of(session).sources.remove(self._seen)
            self._seen.clear()

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
        table = self._outbox.table
        if written and isinstance(engine := self.session.get_bind(clause=table), Engine):
            for tenant_id in {event.tenant_id for event in written}:
                waker_of(engine).wake(channel_of(table, tenant_id))
