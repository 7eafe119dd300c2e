"""The second loop: measure the backlog, check an idle broker, write the OutboxTenant's status.

It asks often while something waits or is wrong, seldom otherwise, and writes only what is material or due.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import BusUnavailable, MessageBus
from outbox_projector.database import DatabaseUnavailable, translated
from outbox_projector.health import FALSE, UNKNOWN, Health, utc_now
from outbox_projector.report import Status, build_status, is_material
from outbox_projector.store import Store

log = structlog.get_logger()

BUSY_SECONDS = 2.0
IDLE_SECONDS = 10.0


class StatusWriteFailed(Exception):
    """The API server did not take the status; the next report tries again."""


class StatusWriter(Protocol):
    """Where reports go. Raises StatusWriteFailed."""

    async def write(self, status: Status) -> None: ...


class Reporter:
    """Keeps `health.backlog` and the status of the OutboxTenant up to date."""

    def __init__(
        self,
        *,
        session_factory: Callable[[], AsyncSession],
        store: Store,
        bus: MessageBus,
        tenant_id: str,
        health: Health,
        writer: StatusWriter | None,
        heartbeat_seconds: float = 60.0,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """writer: None when nobody wants reports. heartbeat_seconds: longest time between two writes."""
        self._session_factory = session_factory
        self._store = store
        self._bus = bus
        self._tenant_id = tenant_id
        self._health = health
        self._writer = writer
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._written: Status | None = None
        self._written_at = clock()
        self._written_total = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run_forever` after a last report."""
        self._stopping.set()

    async def run_forever(self) -> None:
        """Reports until `stop`."""
        while not self._stopping.is_set():
            await self.report()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), timeout=self._pause())
        await self.report(last=True)

    async def report(self, *, last: bool = False) -> None:
        """One measurement, and a write if it is worth one; the last one always is: it stays until the next pod's."""
        await self._measure()
        if self._health.database.status != FALSE and self._broker_is_idle():
            await self._check_broker()
        await self._write(due=last)

    def _broker_is_idle(self) -> bool:
        """With rows waiting, the loop's own publish tells more than a check; unless all of them wait for later."""
        backlog = self._health.backlog
        return backlog is None or backlog.pending == 0 or self._health.broker.status == UNKNOWN

    async def _measure(self) -> None:
        # Whether the database can be used is the loop's to say: a role without the right to update, or a standby,
        # answers here and not there, and two voices would make the condition flap. Except before its first word.
        try:
            async with translated(), self._session_factory() as session:
                self._health.measured(await self._store.measure(session))
            if self._health.database.status == UNKNOWN:
                self._health.database_answered()
        except DatabaseUnavailable as error:
            if self._health.database.status == UNKNOWN:
                self._health.database_failed(error)

    async def _check_broker(self) -> None:
        try:
            await self._bus.check(self._tenant_id)
            self._health.broker_answered()
        except BusUnavailable as error:
            self._health.broker_failed(error)

    async def _write(self, *, due: bool) -> None:
        if self._writer is None:
            return
        now = self._clock()
        elapsed = (now - self._written_at).total_seconds()
        sent = self._health.sent_total - self._written_total
        status = build_status(self._health, events_per_second=sent / max(elapsed, 1.0), now=now)
        if not due and elapsed < self._heartbeat_seconds and not is_material(self._written, status):
            return
        try:
            await self._writer.write(status)
        except StatusWriteFailed as error:
            log.warning("status not written", cause=str(error))
        else:
            self._written, self._written_at, self._written_total = status, now, self._health.sent_total

    def _pause(self) -> float:
        backlog = self._health.backlog
        troubled = FALSE in (self._health.database.status, self._health.broker.status)
        busy = troubled or backlog is None or backlog.pending > 0
        return (BUSY_SECONDS if busy else IDLE_SECONDS) * random.uniform(0.8, 1.2)  # noqa: S311 - spreads tenants
