"""What the outbox costs the application: a commit with an event, many events at once, the import.

`commit_ratio` compares a unit of work that changes one row and registers one event with the same session and a
hand-written Core INSERT of the same outbox row. Both take turns commit by commit, so that a busy moment of the machine
hits both; each round gives the ratio of the two medians.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import NullPool, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.figures import Figures
from bento_outbox import UnitOfWork, event_type, register_event_from_aggregate
from bento_outbox.database_url import parse_database_url
from bento_outbox.schema import apply_schema
from bento_outbox.table import outbox_table

PARTS = ("postgres",)
TENANT = "bench"

Sessions = async_sessionmaker[AsyncSession]


class Base(DeclarativeBase):
    pass


class Account(Base):
    """The business row."""

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(primary_key=True)
    balance: Mapped[int]


@event_type("bench.Deposited")
@dataclass(frozen=True, kw_only=True)
class Deposited:
    """The event; its payload has some 300 bytes."""

    aggregate_id: str
    amount: int
    note: str = "x" * 230


def run(*, smoke: bool) -> Figures:
    """The figures."""
    return asyncio.run(_run(rounds=1 if smoke else 7, commits=5 if smoke else 200, events=50 if smoke else 1000))


async def _run(*, rounds: int, commits: int, events: int) -> Figures:
    figures = Figures()
    async with _Database() as engine:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        await _compare(sessions, commits)  # warms up caches of both
        pairs = [await _compare(sessions, commits) for _ in range(rounds)]
        figures.add("commit_ratio", [ours / by_hand for ours, by_hand in pairs], goal="≤ 1.15")
        figures.add("commit_milliseconds", [ours * 1000 for ours, _ in pairs], "ms")
        figures.add("by_hand_milliseconds", [by_hand * 1000 for _, by_hand in pairs], "ms")
        rates = [await _many(sessions, events) for _ in range(rounds + 1)][1:]
        figures.add("events_per_second", rates, "events/s", goal="≥ 20,000")
    figures.add("import_seconds", [_import_seconds() for _ in range(rounds)], "s", goal="< 0.5")
    return figures


async def _compare(sessions: Sessions, commits: int) -> tuple[float, float]:
    """Median seconds of a commit with the unit of work, and by hand."""
    ours, by_hand = [], []
    for _ in range(commits):
        ours.append(await _timed(_with_unit_of_work(sessions)))
        by_hand.append(await _timed(_by_hand(sessions)))
    return statistics.median(ours), statistics.median(by_hand)


async def _timed(work: object) -> float:
    began = time.perf_counter()
    await work  # type: ignore[misc] # a coroutine
    return time.perf_counter() - began


async def _with_unit_of_work(sessions: Sessions) -> None:
    async with UnitOfWork(sessions, tenant_id=TENANT) as work:
        account = await work.session.get(Account, "a")
        assert account is not None
        account.balance += 1
        register_event_from_aggregate(Deposited(aggregate_id="a", amount=1))
        await work.commit()


async def _by_hand(sessions: Sessions) -> None:
    async with sessions() as session:
        account = await session.get(Account, "a")
        assert account is not None
        account.balance += 1
        await session.execute(
            insert(outbox_table).values(
                id=uuid.uuid4(),
                tenant_id=TENANT,
                aggregate_id="a",
                type="bench.Deposited",
                schema_id="bench.Deposited",
                schema_ver=1,
                payload={"aggregate_id": "a", "amount": 1, "note": Deposited.note},
            )
        )
        await session.commit()


async def _many(sessions: Sessions, events: int) -> float:
    """Events per second of one unit of work, from the first registration to the end of the commit."""
    async with UnitOfWork(sessions, tenant_id=TENANT) as work:
        began = time.perf_counter()
        for number in range(events):
            register_event_from_aggregate(Deposited(aggregate_id=f"a-{number % 50}", amount=number))
        await work.commit()
        return events / (time.perf_counter() - began)


def _import_seconds() -> float:
    """Seconds to import the library in a new process, which must bring no broker and no Kubernetes with it."""
    program = (
        "import time, sys; began = time.perf_counter(); from bento_outbox import *; print(time.perf_counter() - began);"
        "sys.exit(any(name in sys.modules for name in ('pulsar', 'kubernetes', 'aiohttp')))"
    )
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


class _Database:
    """A database of the benchmark's own, dropped afterwards."""

    def __init__(self) -> None:
        self._name = f"bench_{uuid.uuid4().hex}"

    async def __aenter__(self) -> AsyncEngine:
        server = os.environ["DATABASE_URL"]
        self._server = create_async_engine(parse_database_url(server), isolation_level="AUTOCOMMIT", poolclass=NullPool)
        await self._on_server(f"CREATE DATABASE {self._name}")
        own = urlunsplit(urlsplit(server)._replace(path=f"/{self._name}"))
        self._engine = create_async_engine(parse_database_url(own))
        async with self._engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
            await connection.execute(insert(Account).values(id="a", balance=0))
        await apply_schema(self._engine)
        return self._engine

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()
        await self._on_server(f"DROP DATABASE {self._name} WITH (FORCE)")
        await self._server.dispose()

    async def _on_server(self, statement: str) -> None:
        async with self._server.connect() as connection:
            await connection.execute(text(statement))
