"""The complete look: lists everything into the cache, then asks for a look at every tenant.

At the start it fills the cache, so that the first look at a tenant sees its children and has nothing to write. A watch
that has lost its place (status 410: an API server that was restarted, a network that was cut for long) begins anew with
what exists, and says nothing of what has vanished meanwhile: so after that there is another pass. And one at long
intervals, for whatever else may go wrong.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from outbox_operator.cache import Cache
from outbox_operator.cluster import Cluster
from outbox_operator.errors import ClusterError, Forbidden, NotFound, Unreachable
from outbox_operator.keys import OUTBOX_TENANT, WATCHED, Key, Kind
from outbox_operator.watching import WatchMonitor
from outbox_operator.workqueue import Backoff, Clock, WorkQueue

logger = structlog.get_logger(__name__)

QUIET_SECONDS: Final = 3.0
"""Since a watch last told of what it found when it began; then it is through, and all others that began with it."""
LONGEST_QUEST_SECONDS: Final = 60.0
"""A watch that begins anew again and again does not put off the pass for ever."""
OVERDUE_INTERVALS: Final = 3
"""Intervals without a complete list after which the process counts as unhealthy."""
_FIRST: Final = Backoff(first_seconds=0.5, longest_seconds=8.0)


class Resync:
    """One pass at the start, then one per interval; `namespaces` empty means all of them."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        cache: Cache,
        queue: WorkQueue[Key],
        watches: WatchMonitor,
        namespaces: Sequence[str],
        interval_seconds: float,
        clock: Clock,
        after_each: Callable[[], None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._queue = queue
        self._watches = watches
        self._namespaces = namespaces
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._after_each = after_each
        self._last: float | None = None
        self._asked = asyncio.Event()
        self.done_once = asyncio.Event()
        """Set when the cache is complete for the first time."""

    async def run(self) -> None:
        """For ever. Raises when the first pass fails for a reason that a person has to see to."""
        await self._first()
        while True:
            await self._due()
            try:
                await self.once()
            except ClusterError as error:
                self.soon()
                logger.warning("resync failed", error=str(error), retry_in_seconds=QUIET_SECONDS)

    def soon(self) -> None:
        """A watch begins anew: asks for a pass when it is through."""
        self._asked.set()

    async def _due(self) -> None:
        """Until the interval is over, or for QUIET_SECONDS nobody has asked any more, within LONGEST_QUEST_SECONDS."""
        try:
            await asyncio.wait_for(self._asked.wait(), self._interval_seconds)
        except TimeoutError:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(LONGEST_QUEST_SECONDS):
                while True:
                    self._asked.clear()
                    await asyncio.wait_for(self._asked.wait(), QUIET_SECONDS)

    async def _first(self) -> None:
        """Until the API server, which may just be starting, has answered it. (The startup probe sets the end.)"""
        failures = 0
        while not self.done_once.is_set():
            try:
                await self.once()
            except Unreachable as error:
                failures += 1
                seconds = _FIRST.seconds(failures, random=random.random)
                logger.warning("first list failed", error=str(error), retry_in_seconds=round(seconds, 1))
                await asyncio.sleep(seconds)

    async def once(self) -> None:
        """One pass."""
        for kind in WATCHED:
            await self._list(kind)
        tenants = self._cache.tenants()
        for key in tenants:
            self._queue.add(key)
        self._last = self._clock.time()
        self.done_once.set()
        self._after_each()
        logger.info("resync", tenants=len(tenants))

    def overdue(self) -> str | None:
        """Why the process is not healthy, as far as this part can tell."""
        if self._last is None:
            return "the first complete list of all objects is not done yet"
        seconds = self._clock.time() - self._last
        if seconds < OVERDUE_INTERVALS * self._interval_seconds:
            return None
        return f"the last complete list of all objects is {seconds:.0f} seconds old"

    async def _list(self, kind: Kind) -> None:
        """Raises Forbidden when no namespace may be read: where some may, those are served all the same."""
        forbidden: list[Forbidden] = []
        with self._cache.listing(kind) as listing:
            for namespace in self._namespaces or (None,):
                try:
                    async for obj in self._cluster.list(kind, namespace):
                        if listing.add(obj):
                            self._watches.expect(kind, obj)
                except Forbidden as error:
                    # Our Role goes with its namespace when that is deleted.
                    logger.warning("a namespace cannot be read", namespace=namespace, error=str(error))
                    forbidden.append(error)
                except NotFound as error:
                    if kind != OUTBOX_TENANT:
                        raise
                    raise NotFound(
                        f"This cluster does not know the kind OutboxTenant ({error}). "
                        "Install it with the chart outbox-operator, or: kubectl apply -f crds/outboxtenants.yaml"
                    ) from error
            if len(forbidden) == max(1, len(self._namespaces)):
                raise forbidden[0]
