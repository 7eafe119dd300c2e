"""The listener where nothing is heard; with the real Postgres: integration/test_listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from outbox_projector.database import Database
from outbox_projector.listener import Listener


class Deaf:
    """Stands for a database behind a pooler, through which no notification comes, and for its connections."""

    def __init__(self) -> None:
        self.trials = 0
        self.tidied: asyncio.Queue[None] = asyncio.Queue()
        self.changed: Callable[[], None]

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Deaf]:
        yield self

    def on_change(self, call: Callable[[], None]) -> None:
        self.changed = call

    async def close_idle(self, *, but: object) -> None:
        self.tidied.put_nowait(None)

    def add_termination_listener(self, call: object) -> None: ...

    async def add_listener(self, channel: str, call: object) -> None:
        self.trials += 1

    async def remove_listener(self, channel: str, call: object) -> None: ...

    async def execute(self, *_: Any) -> None: ...


async def test_where_nothing_is_heard_connections_are_tidied_as_often_and_listen_is_seldom_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("outbox_projector.listener.TIDY_SECONDS", 0.0)
    database = Deaf()
    listener = Listener(cast(Database, database), channel="c", ring=lambda: None, hearing_seconds=0.0)
    running = asyncio.create_task(listener.run_forever())

    async def tidied_twice() -> None:
        for _ in range(2):
            await database.tidied.get()

    await tidied_twice()
    assert database.trials == 1

    database.changed()  # to another URL, perhaps past the pooler
    while database.trials == 1:
        await database.tidied.get()
    await tidied_twice()
    assert database.trials == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
