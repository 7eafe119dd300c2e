"""Wakes the projector when something was committed: LISTEN on one of the connections that it has anyway.

Whether LISTEN works can only be seen by trying. A pooler that gives a connection of the server to each transaction
(pgbouncer with pool_mode = transaction) answers it as if all were well, but what listens goes back to the pool, and
nothing ever comes. Not even a notification to oneself tells: it may use the same connection of the server, and comes
in with the answer. So the thing itself is tried: one connection does nothing, another notifies, the first must hear.

    untried ──heard──► listening ──the connection ends──► untried again, and the projector is woken: it may have missed
       │                                                  something
       └─────not heard──► deaf: the projector polls; tried again after a long while
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import asyncpg
import structlog

from outbox_projector.database import Database
from outbox_projector.database_errors import DatabaseUnavailable, translated
from outbox_projector.policies import Retries

log = structlog.get_logger()

HEARING_SECONDS = 5.0
"""A notification takes milliseconds; one that did not come in so long will not."""
RECONNECT = Retries(initial_seconds=0.5, longest_seconds=10.0)
"""Pauses while the database cannot be used."""
DEAF_SECONDS = 600.0
"""Until LISTEN is tried again where it did not work: somebody may have changed the pooler, which is rare."""
TIDY_SECONDS = 15.0
"""How often connections that a busy time has left are closed, but for the one that listens."""
_NOTIFY = "SELECT pg_notify($1, $2)"
_TRIAL = "trial "
"""Begins the payload of our own notifications, which wake nobody."""


class Listener:
    """Rings for each notification on a channel, and whenever one may have been missed."""

    def __init__(
        self,
        database: Database,
        *,
        channel: str,
        ring: Callable[[], None],
        became: Callable[[bool], None] = lambda _: None,
        hearing_seconds: float = HEARING_SECONDS,
    ) -> None:
        """ring: must not block or raise. became: told whether LISTEN works, whenever that changes."""
        self._database = database
        self._channel = channel
        self._ring = ring
        self._became = became
        self._hearing_seconds = hearing_seconds
        self._works: bool | None = None
        self._driver: Any = None  # the connection that listens, as asyncpg knows it
        self._payload = ""  # of the trial, whose end is `answered`
        self._answered = asyncio.Event()
        self._wanted = asyncio.Event()
        self._deaf_until = 0.0
        database.on_change(self._lose)

    @property
    def works(self) -> bool:
        """Whether the next notification will be heard, as far as one can know."""
        return self._works is True

    async def run_forever(self) -> None:
        """Listens until it is cancelled. Outages are waited out."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            self._wanted.clear()
            try:
                if not self.works and clock() >= self._deaf_until:
                    works = await self._listen()
                    self._deaf_until = 0.0 if works else clock() + DEAF_SECONDS
                    self._become(works)
                await self._database.close_idle(but=self._driver)
                failures, pause = 0, TIDY_SECONDS
            except DatabaseUnavailable as outage:
                # Whoever asks the database for events says so, and more often.
                failures += 1
                pause = RECONNECT.wait(failures)
                log.debug("not listening", cause=str(outage), retry_in_seconds=round(pause, 1))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):  # wait_for would lose a cancellation that comes with the event
                    await self._wanted.wait()

    async def _listen(self) -> bool:
        """Makes one connection listen, and tries whether it hears. Raises DatabaseUnavailable."""
        async with translated(), self._database() as other, self._database() as driver:
            driver.add_termination_listener(self._ended)
            self._driver, self._payload = driver, f"{_TRIAL}{uuid4()}"
            self._answered.clear()
            await driver.add_listener(self._channel, self._notified)
            await other.execute(_NOTIFY, self._channel, self._payload)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._hearing_seconds):
                    await self._answered.wait()
            heard = self._answered.is_set()
            if not heard:
                with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    await driver.remove_listener(self._channel, self._notified)
        if self._driver is not driver:
            raise DatabaseUnavailable("the connection that was to listen has ended", reason="DatabaseUnreachable")
        return heard

    def _notified(self, driver: object, _pid: int, _channel: str, payload: str) -> None:
        if not payload.startswith(_TRIAL):
            self._ring()
        elif payload == self._payload and driver is self._driver:
            self._answered.set()

    def _ended(self, driver: object) -> None:
        if driver is self._driver:
            self._lose()

    def _lose(self) -> None:
        """The connection has ended, or belongs to a former database URL: the next one is tried at once."""
        self._driver = None
        self._deaf_until = 0.0
        self._wanted.set()
        self._answered.set()
        if self._works:
            self._works = None
            self._became(False)
            self._ring()

    def _become(self, works: bool) -> None:
        if works:
            self._ring()  # what was committed before it listened
        if works == self._works:
            return
        self._works = works
        self._became(works)
        if works:
            log.info("listening")
        else:
            log.warning(
                "LISTEN does not work here, probably because of a pooler that shares connections between transactions: "
                "events are found by polling. For a faster way point the database URL at Postgres, "
                "or at a pool with pool_mode = session",
                retry_in_seconds=DEAF_SECONDS,
            )
