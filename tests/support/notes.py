"""A small business: notes with a number, and the event that tells of each.

Whoever writes a note numbered n registers an event numbered n, so a test can lay the two lists side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Text, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bento_outbox import event_type


class Base(DeclarativeBase):
    pass


class Note(Base):
    """The business row."""

    __tablename__ = "notes"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    tenant: Mapped[str] = mapped_column(Text, index=True)
    number: Mapped[int]


@event_type("tests.notes.Noted")
@dataclass(frozen=True)
class Noted:
    """The event."""

    number: int
    aggregate_id: str = "note"
    event_id: UUID = field(default_factory=uuid4)


@event_type("tests.notes.Unstorable", version=2**31)
@dataclass(frozen=True)
class Unstorable(Noted):
    """The table refuses it: its version is larger than the column's integers."""


async def create_tables(engine: AsyncEngine) -> None:
    """Idempotent."""
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('tests.support.notes'))"))
        await connection.run_sync(Base.metadata.create_all)


class Ledger:
    """What is stored of one tenant, as a connection of its own sees it."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], tenant: str) -> None:
        self.tenant = tenant
        self._sessions = sessions

    async def both(self) -> tuple[list[int], list[int]]:
        """The numbers of the notes, sorted; those of the events, as they were inserted."""
        async with self._sessions() as session:
            return await session.run_sync(numbers, self.tenant)

    async def notes(self) -> list[int]:
        return (await self.both())[0]

    async def events(self) -> list[int]:
        return (await self.both())[1]


def numbers(session: Session, tenant: str) -> tuple[list[int], list[int]]:
    """As `Ledger.both`, within a session: what its transaction sees."""
    notes = session.execute(select(Note.number).where(Note.tenant == tenant).order_by(Note.number)).scalars()
    events: Any = session.execute(
        text("SELECT CAST(payload ->> 'number' AS int) FROM outbox WHERE tenant_id = :tenant ORDER BY seq"),
        {"tenant": tenant},
    ).scalars()
    return list(notes), list(events)
