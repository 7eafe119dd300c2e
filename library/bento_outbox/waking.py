"""Tells the projector that there is something to do: a NOTIFY after the commit, on a connection of its own.

Inside the transaction NOTIFY takes a lock of the whole cluster at commit, which would make all commits queue. So it is
sent afterwards: the first one at once, then one at most in each pause, however many commits there are. It may get
lost, for one when the program ends at this moment; the projector polls.
"""

from __future__ import annotations

import asyncio
import logging
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Engine, text
from sqlalchemy.ext.asyncio import AsyncEngine

log = logging.getLogger("bento_outbox")

PAUSE_SECONDS = 0.005
"""Between two notifications: an event that comes within it waits no longer than that. At most 200 a second, which a
busy application does not feel (`make bench NAME=write_side`)."""
_NOTIFY = text("SELECT pg_notify(channel, '') FROM unnest(CAST(:channels AS text[])) AS channel")


class Waker:
    """Sends notifications over one engine, which it does not keep alive."""

    def __init__(self, engine: Engine) -> None:
        """engine: that of an AsyncEngine."""
        self._engine = ref(engine)
        self._channels: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def wake(self, channel: str) -> None:
        """Soon; returns at once."""
        self._channels.add(channel)
        loop = asyncio.get_running_loop()
        # A task of a loop that was closed is never done.
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run(), name="wake the projectors")

    async def drained(self) -> None:
        """Returns when everything that was asked for is sent, or given up."""
        if self._task is not None and self._task.get_loop() is asyncio.get_running_loop():
            await self._task

    async def _run(self) -> None:
        while self._channels:
            channels, self._channels = self._channels, set()
            engine = self._engine()
            if engine is None:
                return
            pool = engine.pool
            try:
                async with AsyncEngine(engine).connect() as connection:
                    # One statement needs no BEGIN and COMMIT of their own, each a round trip.
                    await connection.execution_options(isolation_level="AUTOCOMMIT")
                    await connection.execute(_NOTIFY, {"channels": sorted(channels)})
                    if engine.pool is not pool:
                        await connection.invalidate()  # the engine was disposed meanwhile: nobody else would close it
            except Exception as error:
                # Whatever it is: nobody waits for this task, and the projector does not depend on it.
                log.debug("projectors not woken, they find the events by polling", exc_info=error)
            del engine  # a pause must not keep it alive
            await asyncio.sleep(PAUSE_SECONDS)


_wakers: WeakKeyDictionary[Engine, Waker] = WeakKeyDictionary()


def waker_of(engine: Engine) -> Waker:
    """The waker of an engine: one, so that all its commits share the pause."""
    return _wakers.get(engine) or _wakers.setdefault(engine, Waker(engine))
