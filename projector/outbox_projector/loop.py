"""The loop: claim → publish → settle → wait.

The life of a row, and who may touch it:

    NEW ──claim──► NEW, locked ──publish──► on the bus ──settle──► SENT
     ▲                  │                                  │
     └── refused: retry_cnt + 1, available later ◄─────────┤
                                                           └─► ERR   no attempt left, or none can succeed

Claim, publish and settle are one transaction, which holds the rows' locks: another pod passes them over. A crash
at any arrow rolls back, so the rows are NEW again and the next claim publishes them again: at least once, with the
same event id. Rows are claimed and published in the order of their insertion (`seq`).

An outage of the database or the bus is nobody's retry: what was acknowledged is settled, the rest stays as it was,
and the loop tries again after a growing pause.

Stopping: `stop` lets the batch in hand finish and begins no other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol
from uuid import UUID

import structlog
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import BusUnavailable, EventsRefused, MessageBus, Refusal
from bento_outbox.table import outbox_table
from outbox_projector.database import DatabaseUnavailable, translated
from outbox_projector.policies import Polling, Retries
from outbox_projector.store import Claim, Store, settled

log = structlog.get_logger()

OUTAGE = Retries(initial_seconds=0.5, longest_seconds=10.0)
"""Pauses while the database or the bus cannot be used. 10 s bounds how late recovery is noticed."""


class Observer(Protocol):
    """Told what the loop sees; must not block or raise."""

    def turned(self) -> None: ...
    def database_answered(self) -> None: ...
    def database_failed(self, error: DatabaseUnavailable) -> None: ...
    def broker_answered(self) -> None: ...
    def broker_failed(self, error: BusUnavailable) -> None: ...
    def settled(self, *, sent: int, retried: int, failed: int) -> None: ...


class Unobserved:
    """The observer of a projector that nobody watches."""

    def turned(self) -> None: ...
    def database_answered(self) -> None: ...
    def database_failed(self, error: DatabaseUnavailable) -> None: ...
    def broker_answered(self) -> None: ...
    def broker_failed(self, error: BusUnavailable) -> None: ...
    def settled(self, *, sent: int, retried: int, failed: int) -> None: ...


class OutboxProjector:
    """Publishes one tenant's outbox rows until it is stopped.

    await OutboxProjector(session_factory, message_bus, tenant_id, batch_size=200).run_forever()
    """

    def __init__(
        self,
        session_factory: Callable[[], AsyncSession],
        message_bus: MessageBus,
        tenant_id: str,
        batch_size: int = 200,
        *,
        table: Table = outbox_table,
        retries: Retries | None = None,
        polling: Polling | None = None,
        observer: Observer | None = None,
    ) -> None:
        """session_factory: opens a session; may raise DatabaseUnavailable. batch_size: rows a transaction, from 1."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but a batch has at least 1 row")
        self._session_factory = session_factory
        self._bus = message_bus
        self._batch_size = batch_size
        self._store = Store(table, tenant_id)
        self._retries = retries or Retries()
        self._polling = polling or Polling()
        self._observer = observer or Unobserved()
        self._stopping = asyncio.Event()
        self._wanted = asyncio.Event()  # set by whoever ends a rest

    def stop(self) -> None:
        """Ends `run_forever` after the batch in hand. Idempotent; fit for a signal handler of the event loop."""
        self._stopping.set()
        self._wanted.set()

    def wake(self) -> None:
        """Ends the present rest: something may have come. Fit to be called at any rate."""
        self._wanted.set()

    async def run_forever(self) -> None:
        """Runs until `stop`. Outages are waited out; any other error is a defect and is raised."""
        pause, outages = 0.0, 0
        while not self._stopping.is_set():
            self._observer.turned()
            try:
                claimed = await self.deliver_batch()
            except (DatabaseUnavailable, BusUnavailable) as outage:
                outages += 1
                pause = OUTAGE.wait(outages)
                log.warning("outage", reason=outage.reason, cause=str(outage), retry_in_seconds=round(pause, 1))
            else:
                outages = 0
                pause = self._polling.pause(claimed=claimed, batch_size=self._batch_size, last=pause)
            await self._rest(pause)

    async def deliver_batch(self) -> int:
        """One turn: claims, publishes and settles up to `batch_size` rows. Returns how many it claimed.

        Raises DatabaseUnavailable, BusUnavailable.
        """
        outage: BusUnavailable | None = None
        try:
            async with translated(), self._session_factory() as session, session.begin():
                claim = await self._store.claim(session, self._batch_size)
                self._observer.database_answered()
                if claim:
                    outage = await self._publish_and_settle(session, claim)
        except DatabaseUnavailable as error:
            self._observer.database_failed(error)
            raise
        if outage is not None:
            self._observer.broker_failed(outage)
            raise outage
        return len(claim)

    async def _publish_and_settle(self, session: AsyncSession, claim: Claim) -> BusUnavailable | None:
        refused: dict[UUID, Refusal] = dict(claim.unreadable)
        outage: BusUnavailable | None = None
        try:
            if claim.envelopes:
                await self._bus.publish(claim.envelopes)
                self._observer.broker_answered()
            sent = settled(claim, refused)
        except EventsRefused as error:
            self._observer.broker_answered()
            refused |= error.refused
            sent = settled(claim, refused)
        except BusUnavailable as error:
            outage = error
            sent = list(error.stored)
        await self._store.mark_sent(session, sent)
        failed = await self._store.mark_refused(session, refused, claim.retry_counts, self._retries)
        for event_id, refusal in refused.items():
            log.warning("event refused", event_id=str(event_id), reason=refusal.reason, permanent=refusal.permanent)
        self._observer.settled(sent=len(sent), retried=len(refused) - failed, failed=failed)
        return outage

    async def _rest(self, seconds: float) -> None:
        if seconds > 0 and not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), timeout=seconds)
        self._wanted.clear()
