"""The consumer's half: a handler that runs once per event, however often the event arrives.

The ids of handled events are kept in a table of the consumer's own database and written in the transaction of the
handler's changes: both are committed, or neither. Two consumers that get the same event at the same time queue at
the primary key; the second finds it handled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Column, DateTime, MetaData, Table, Text, Uuid, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker


def make_inbox_table(metadata: MetaData, *, name: str = "inbox", schema: str | None = None) -> Table:
    """The table of handled events as part of `metadata`, for `metadata.create_all` or your own migrations."""
    return Table(
        name,
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("event_id", Uuid, primary_key=True),
        Column("handled_at", DateTime(timezone=True), nullable=False, server_default=func.now(), index=True),
        schema=schema,
    )


class Inbox:
    """What one consumer has handled.

        handled = await inbox.handle_once(sessions, message.properties()["event_id"], handler)

    Acknowledge the message when it returns, whatever it returns; when it raises, do not.
    """

    def __init__(self, consumer: str, table: Table) -> None:
        """consumer: a stable name; each consumer handles each event once. table: made by `make_inbox_table`."""
        self._consumer = consumer
        self._table = table

    async def first_time(self, session: AsyncSession, event_id: UUID | str) -> bool:
        """Whether this consumer has not handled the event yet; from now on, if the session commits, it has."""
        event_id = event_id if isinstance(event_id, UUID) else UUID(event_id)
        row = {"consumer": self._consumer, "event_id": event_id}
        claimed = insert(self._table).values(row).on_conflict_do_nothing().returning(self._table.c.event_id)
        return (await session.execute(claimed)).first() is not None

    async def handle_once(
        self,
        session_factory: async_sessionmaker[AsyncSession],
        event_id: UUID | str,
        handler: Callable[[AsyncSession], Awaitable[None]],
    ) -> bool:
        """Runs `handler` in a transaction unless the event was handled before. Returns whether it ran.

        What the handler raises rolls back its changes and is passed on; the event then counts as not handled.
        """
        async with session_factory.begin() as session:
            if not await self.first_time(session, event_id):
                return False
            await handler(session)
            return True

    async def forget(self, session: AsyncSession, *, older_than: timedelta, at_most: int = 10_000) -> int:
        """Removes ids that were handled longer ago than the broker could still deliver them again.

        at_most: rows a call, so that no transaction grows long. Returns how many were removed.
        """
        old = (
            select(self._table.c.consumer, self._table.c.event_id)
            .where(self._table.c.consumer == self._consumer, self._table.c.handled_at < func.now() - older_than)
            .limit(at_most)
        )
        key = (self._table.c.consumer, self._table.c.event_id)
        removed = await session.execute(
            delete(self._table).where(func.row(*key).in_(old)).returning(self._table.c.event_id)
        )
        return len(removed.all())
