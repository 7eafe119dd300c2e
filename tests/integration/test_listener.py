"""Waking by NOTIFY, on the real Postgres: what is heard, and what happens when the connection that listens ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.channels import channel_of
from bento_outbox.table import outbox_table
from outbox_projector.database import Database
from outbox_projector.listener import Listener
from tests.conftest import unique
from tests.support.pgbouncer import pgbouncer
from tests.support.urls import Url

NOTHING_IS_HEARD_SECONDS = 1.0


class Heard:
    """A listener that runs, and what came of it, in order: "listening", "not listening", "ring"."""

    def __init__(self, database: Database, channel: str, hearing_seconds: float) -> None:
        self.database = database
        self._events: asyncio.Queue[str] = asyncio.Queue()
        self.listener = Listener(
            database,
            channel=channel,
            ring=lambda: self._events.put_nowait("ring"),
            became=lambda works: self._events.put_nowait("listening" if works else "not listening"),
            hearing_seconds=hearing_seconds,
        )

    @property
    def waiting(self) -> int:
        return self._events.qsize()

    async def next(self) -> str:
        return await self._events.get()


class Listening(Protocol):
    def __call__(self, url: Url, hearing_seconds: float = 30.0) -> AbstractAsyncContextManager[Heard]: ...


@pytest.fixture
def channel(tenant: str) -> str:
    return channel_of(outbox_table, tenant)


@pytest.fixture
def url(database_url: str) -> Url:
    return Url(database_url)


@pytest.fixture
async def listening(channel: str) -> Listening:
    @asynccontextmanager
    async def listening(url: Url, hearing_seconds: float = 30.0) -> AsyncIterator[Heard]:
        database = Database(url, name=channel)
        heard = Heard(database, channel, hearing_seconds)
        task = asyncio.create_task(heard.listener.run_forever())
        yield heard
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await database.close()

    return listening


async def _notify(engine: AsyncEngine, channel: str, payload: str = "") -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


async def _end_connections(engine: AsyncEngine, name: str) -> None:
    """Ends all connections of this name, as a restart or a failover does."""
    statement = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = :name")
    async with engine.begin() as connection:
        await connection.execute(statement, {"name": name})


async def test_it_rings_when_it_begins_and_for_each_notification(
    listening: Listening, url: Url, engine: AsyncEngine, channel: str
) -> None:
    async with listening(url) as heard:
        assert [await heard.next(), await heard.next()] == ["ring", "listening"]
        assert heard.listener.works
        for _ in range(2):
            await _notify(engine, channel)
            assert await heard.next() == "ring"


async def test_what_others_hear_or_try_does_not_ring(
    listening: Listening, url: Url, engine: AsyncEngine, channel: str
) -> None:
    async with listening(url) as heard, listening(url) as other:
        for one in (heard, other):
            assert [await one.next(), await one.next()] == ["ring", "listening"]
        await _notify(engine, unique("channel"))
        await _notify(engine, channel, "trial of somebody")
        await _notify(engine, channel)
        assert [await heard.next(), await other.next()] == ["ring", "ring"]
        assert heard.waiting == 0


async def test_it_listens_again_after_its_connection_ended_and_rings_for_what_it_missed(
    listening: Listening, url: Url, engine: AsyncEngine, channel: str
) -> None:
    async with listening(url) as heard:
        assert [await heard.next(), await heard.next()] == ["ring", "listening"]

        await _end_connections(engine, channel)
        assert [await heard.next(), await heard.next()] == ["not listening", "ring"]
        assert [await heard.next(), await heard.next()] == ["ring", "listening"]
        await _notify(engine, channel)
        assert await heard.next() == "ring"


async def test_a_pooler_that_keeps_sessions_does_not_disturb(
    listening: Listening, engine: AsyncEngine, channel: str, database_url: str, tmp_path: Path
) -> None:
    async with pgbouncer(database_url, tmp_path, "session") as through, listening(Url(through)) as heard:
        assert [await heard.next(), await heard.next()] == ["ring", "listening"]
        await _notify(engine, channel)
        assert await heard.next() == "ring"


async def test_a_pooler_that_shares_connections_between_transactions_is_noticed(
    listening: Listening, database_url: str, tmp_path: Path
) -> None:
    async with (
        pgbouncer(database_url, tmp_path, "transaction") as through,
        listening(Url(through), NOTHING_IS_HEARD_SECONDS) as heard,
    ):
        assert await heard.next() == "not listening"
        assert not heard.listener.works


async def test_another_database_url_is_tried_at_once(
    listening: Listening, engine: AsyncEngine, channel: str, database_url: str, tmp_path: Path
) -> None:
    async with pgbouncer(database_url, tmp_path, "transaction") as through:
        url = Url(through)
        async with listening(url, NOTHING_IS_HEARD_SECONDS) as heard:
            assert await heard.next() == "not listening"
            url.url = database_url
            async with heard.database():  # as the lanes do all the time
                pass
            assert [await heard.next(), await heard.next()] == ["ring", "listening"]

            url.url = through
            async with heard.database():
                pass
            assert [await heard.next(), await heard.next()] == ["not listening", "ring"]
