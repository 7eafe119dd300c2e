"""The second loop: measure the backlog, check an idle broker, write the OutboxTenant's status.

It looks soon after the lanes have settled something or a connection came or went, and then in pauses that double up to
a minute: what waits for long changes slowly, in proportion. It writes only what is material or due.

Replicas of one tenant write one status. A replica that stands by, without a lane, has delivered nothing and would say
so: as long as nothing is wrong with it and another one reports, it leaves the status alone. So does a pod that ends,
whatever it thinks is wrong: one that reported after it goes on, perhaps of a newer spec, and would not contradict.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog

from bento_outbox import BusUnavailable, MessageBus
from outbox_projector.database import Connect
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.health import FALSE, UNKNOWN, Health, utc_now
from outbox_projector.policies import Random
from outbox_projector.report import Pace, Status, build_status, is_material
from outbox_projector.store import Store

log = structlog.get_logger()

SOONEST_SECONDS, LATEST_SECONDS = 2.0, 60.0
"""Between two looks. The longest is all that an idle tenant costs the database: one statement a minute."""
UNWRITTEN_SECONDS = 15.0
"""Longest pause while there is something that could not be written yet."""
MEASURING_SHARE = 0.05
"""Of the time, at most: where counting is slow, pauses are longer."""


class StatusWriteFailed(Exception):
    """The API server did not take the status; the next report tries again."""


class StatusWriter(Protocol):
    """The OutboxTenant. latest: the whole object as the API server last showed it. Methods raise StatusWriteFailed."""

    latest: Mapping[str, Any]

    async def read(self) -> None: ...
    async def write(self, status: Status) -> None: ...


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Waits for the event, but no longer than that."""
    if seconds > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with the event
                await event.wait()


class Reporter:
    """Keeps `health.backlog` and the status of the OutboxTenant up to date."""

    def __init__(
        self,
        *,
        connect: Connect,
        store: Store,
        bus: MessageBus,
        tenant_id: str,
        health: Health,
        writer: StatusWriter | None,
        heartbeat_seconds: float = 180.0,
        carries: Callable[[], bool] = lambda: True,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Random = random.uniform,
        within: Callable[[float, asyncio.Event], Awaitable[None]] = _within,
    ) -> None:
        """writer: None when nobody wants reports. heartbeat_seconds: longest time between two writes.

        carries: whether this process has a lane of the tenant.
        clock: for what people and other pods read. monotonic: for intervals; nobody sets it back.
        within: waits so many seconds for an event.
        """
        self._connect = connect
        self._store = store
        self._bus = bus
        self._tenant_id = tenant_id
        self._health = health
        self._writer = writer
        self._pace = Pace(heartbeat_seconds, uniform)
        self._heartbeat = timedelta(seconds=heartbeat_seconds)
        self._carries = carries
        self._stands_by = False
        self._longest_pause = min(LATEST_SECONDS, heartbeat_seconds)  # or a heartbeat would be missed
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._within = within
        self._measuring_seconds = 0.0
        self._unmeasured = ""
        self._written: Status | None = None
        self._unwritten = False
        self._written_at = monotonic()
        self._written_total = 0
        self._reported: str | None = None  # the time of our last report in the status
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ends `run_forever` after a last report."""
        self._stopping.set()
        self._health.stirred.set()

    async def run_forever(self) -> None:
        """Reports until `stop`."""
        pause = SOONEST_SECONDS
        while not self._stopping.is_set():
            self._health.stirred.clear()
            await self.report()
            least = min(LATEST_SECONDS, max(SOONEST_SECONDS, self._measuring_seconds / MEASURING_SHARE))
            await self._within(least * self._uniform(0.8, 1.2), self._stopping)
            longest = min(pause, UNWRITTEN_SECONDS) if self._unwritten else pause
            await self._within((longest - least) * self._uniform(0.8, 1.2), self._health.stirred)
            pause = SOONEST_SECONDS if self._health.stirred.is_set() else min(self._longest_pause, pause * 2)
        await self.report(last=True)

    async def report(self, *, last: bool = False) -> None:
        """One measurement, and a write if it is worth one. The last one is: where no pod follows, it stays."""
        await self._measure()
        if self._health.database.status != FALSE and self._broker_is_idle():
            await self._check_broker()
        # At the end all lanes are given back already.
        stood_by, self._stands_by = self._stands_by, self._stands_by if last else not self._carries()
        await self._write(due=last or (stood_by and not self._stands_by), last=last)

    def _broker_is_idle(self) -> bool:
        """With rows waiting, the loop's own publish tells more than a check; unless it has none."""
        backlog, unknown = self._health.backlog, self._health.broker.status == UNKNOWN
        return backlog is None or backlog.pending == 0 or unknown or self._health.broker_is_silent

    async def _measure(self) -> None:
        # Whether the database can be used is the loop's to say: a role without the right to update, or a standby,
        # answers here and not there, and two voices would make the condition flap. Except before its first word.
        try:
            began, self._measuring_seconds = self._monotonic(), 0.0
            backlog = await self._store.measure(self._connect)
            self._health.measured(backlog)
            self._measuring_seconds = self._monotonic() - began
            self._not_measured(backlog.uncounted)
            if self._health.database.status == UNKNOWN:
                self._health.database_answered()
        except DatabaseUnavailable as error:
            self._not_measured(str(error))
            if self._health.database.status == UNKNOWN:
                self._health.database_failed(error)

    def _not_measured(self, cause: str) -> None:
        """Says so when that is new. cause: empty if all was measured."""
        if cause and cause != self._unmeasured:
            log.warning("what waits is not counted: PENDING is 1, or all figures are those of before", cause=cause)
        self._unmeasured = cause

    async def _check_broker(self) -> None:
        try:
            await self._bus.check(self._tenant_id)
            self._health.broker_answered()
        except BusUnavailable as error:
            self._health.broker_failed(error)

    async def _write(self, *, due: bool, last: bool) -> None:
        if self._writer is None:
            return
        now, moment = self._clock(), self._monotonic()
        elapsed = moment - self._written_at
        sent = self._health.sent_total - self._written_total
        try:
            if not self._writer.latest:
                await self._writer.read()
            shown = self._writer.latest.get("status", {})
            status = build_status(self._health, shown=shown, events_per_second=sent / max(elapsed, 1.0), now=now)
            material = is_material(self._written, status)
            if not due and not self._pace.allows(elapsed, material=material):
                self._unwritten = material
                return
            if not await self._is_anothers(self._writer, now, last=last):
                await self._writer.write(status)
                self._reported = status["projector"]["reportedTime"]
        except StatusWriteFailed as error:
            self._unwritten = True
            log.warning("status not written", cause=str(error))
        else:
            self._unwritten = False
            self._pace.wrote(elapsed)
            self._written, self._written_at, self._written_total = status, moment, self._health.sent_total

    async def _is_anothers(self, writer: StatusWriter, now: datetime, *, last: bool) -> bool:
        """Whether the status is left to another pod."""
        in_trouble = FALSE in (self._health.database.status, self._health.broker.status)
        if not last and (in_trouble or not self._stands_by):
            return False
        await writer.read()
        reported = writer.latest.get("status", {}).get("projector", {}).get("reportedTime")
        if reported in (None, self._reported) or now - datetime.fromisoformat(reported) >= self._heartbeat:
            return False
        # Where all pods end, the one that reported may have ended before us, and not known what we still delivered.
        return not last or _wants_pods(writer.latest.get("spec", {}))


def _wants_pods(spec: Mapping[str, Any]) -> bool:
    return spec.get("state") != "Paused" and spec.get("replicas") != 0
