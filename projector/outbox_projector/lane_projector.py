"""Exactly once into the topic: waits for the tenant's lane, and carries its rows while it owns it.

Replicas share nothing but the lease: one of them owns the lane, the others stand by. When the owner stops it gives the
lane back; when it crashes, the lease runs out, and the next owner begins by ending what was under way (`lane.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import Envelope
from outbox_projector.database import DatabaseUnavailable
from outbox_projector.flights import LanePublisher, Lease, LeaseLost
from outbox_projector.lane import OUTAGE, Lane, LaneObserver
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.policies import Polling, Retries

log = structlog.get_logger()

STAND_BY = Retries(initial_seconds=3.0, longest_seconds=3.0)
"""Pauses between two looks whether the lane is free. With the lease they bound how late a crash is taken over."""


class LaneProjector:
    """Publishes one tenant's outbox rows, once each and in order per key, until it is stopped."""

    def __init__(
        self,
        session_factory: Callable[[], AsyncSession],
        publisher: LanePublisher,
        tenant_id: str,
        batch_size: int,
        *,
        table: Table,
        owner: str,
        topic_of: Callable[[Envelope], str],
        by_key: bool = False,
        retries: Retries,
        polling: Polling,
        observer: LaneObserver,
    ) -> None:
        """session_factory: as of OutboxProjector. batch_size: rows a flight. owner: of the lane, a name for people."""
        self._store = PostgresLaneStore(
            session_factory,
            table,
            tenant_id=tenant_id,
            lane=0,
            owner=owner,
            retries=retries,
            topic_of=topic_of,
            by_key=by_key,
        )
        self._publisher = publisher
        self._batch_size = batch_size
        self._polling = polling
        self._observer = observer
        self._lane: Lane | None = None
        self._stopping = asyncio.Event()
        self._wanted = asyncio.Event()  # set by whoever ends a rest

    def stop(self) -> None:
        """Ends `run_forever` after the flight in the air. Idempotent; fit for a signal handler of the event loop."""
        self._stopping.set()
        self._wanted.set()
        if self._lane is not None:
            self._lane.stop()

    def wake(self) -> None:
        """Ends the present rest of the lane: something may have come. Fit to be called at any rate."""
        if self._lane is not None:
            self._wanted.set()

    async def run_forever(self) -> None:
        """Runs until `stop`. Outages are waited out; any other error is a defect and is raised."""
        attempts = 0
        while not self._stopping.is_set():
            self._observer.turned()
            try:
                lease = await self._store.acquire()
                self._observer.database_answered()
                if lease is None:
                    attempts = 0
                    await self._rest(STAND_BY.wait(1))
                else:
                    await self._own(lease)
            except DatabaseUnavailable as outage:
                attempts += 1
                self._observer.database_failed(outage)
                pause = OUTAGE.wait(attempts)
                log.warning("outage", reason=outage.reason, cause=str(outage), retry_in_seconds=round(pause, 1))
                await self._rest(pause)

    async def _own(self, lease: Lease) -> None:
        log.info("lane acquired", lane=lease.lane, epoch=lease.epoch)
        self._lane = Lane(
            lease=lease,
            store=self._store,
            publisher=self._publisher,
            batch_size=self._batch_size,
            polling=self._polling,
            observer=self._observer,
            rest=self._rest,
        )
        if self._stopping.is_set():
            self._lane.stop()
        try:
            await self._lane.run()
        except LeaseLost as lost:
            log.warning("lane lost", lane=lease.lane, epoch=lease.epoch, cause=str(lost))
        finally:
            self._lane = None
        # Also after it was lost: a former owner may have fenced us, while the lane is still ours in the database.
        await self._store.release(lease)

    async def _rest(self, seconds: float) -> None:
        if seconds > 0 and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), timeout=seconds)
        self._wanted.clear()
