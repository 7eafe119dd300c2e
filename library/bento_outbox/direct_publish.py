"""Publishing right after the commit, for latency; the projector stays the one that guarantees.

    INSERT with available_at = now + hold ──► COMMIT ──► publish, up to `tries` times ──► stored: SENT
                                                                                      └─► not: available at once
    a crash anywhere behind COMMIT: when the hold is over, the projector takes the rows

Never both at once: the projector leaves held rows alone, and publishing here ends at half of the hold, measured from
before the INSERT; the other half is for what the bus still has under way, so that rows whose publishing was cut off
stay held. Rows with an ordering key are never held and never published here: order is the projector's. Nor are
events whose id was in the table before: somebody else has them in hand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox.bus import MessageBus
from bento_outbox.envelope import Envelope
from bento_outbox.errors import BusUnavailable, EventsRefused
from bento_outbox.statements import statement

log = logging.getLogger("bento_outbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectPublish:
    """How hard to try.

    tries                attempts in all, from 1
    first_pause_seconds  before the second attempt, then doubling; up to as much again is added at random
    hold_seconds         how long the projector leaves the rows alone, so the delay after a crash; publishing here ends
                         at half of it, so the bus's own time limit must be shorter than the other half
    """

    tries: int = 3
    first_pause_seconds: float = 0.1
    hold_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.tries < 1 or self.first_pause_seconds < 0 or self.hold_seconds <= 0:
            raise ValueError(
                f"direct publish: tries ({self.tries}) must be at least 1, first_pause_seconds "
                f"({self.first_pause_seconds}) at least 0, and hold_seconds ({self.hold_seconds}) above 0"
            )

    def holds(self, envelope: Envelope) -> float:
        """Seconds for which the row of this event is held; 0 for one that is not published directly."""
        return self.hold_seconds if envelope.ordering_key is None else 0.0


class DirectPublisher:
    """Publishes committed events and settles their rows. Never raises: the business transaction has succeeded."""

    def __init__(
        self,
        *,
        bus: MessageBus,
        table: Table,
        session_factory: Callable[[], AsyncSession],
        policy: DirectPublish,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """sleep: between attempts, in seconds."""
        self.policy = policy
        self._sleep = sleep
        self._bus = bus
        self._session_factory = session_factory
        self._where = {"clause": table}  # a session of several databases finds it by its table
        self._mark_sent = statement("bento_outbox", "write.sql", "mark_sent", table)
        self._release = statement("bento_outbox", "write.sql", "release", table)

    async def publish(self, envelopes: Sequence[Envelope], *, held_since: float) -> list[Envelope]:
        """Returns what is left to the projector. held_since: on the loop's clock, before the rows were inserted."""
        waiting = {event.id: event for event in envelopes if self.policy.holds(event)}
        if not waiting:
            return list(envelopes)
        everything = list(waiting)
        try:
            async with asyncio.timeout_at(held_since + self.policy.hold_seconds / 2) as limit:
                await self._try(waiting)
        except Exception as error:
            # A bus is the application's own code; what is committed must not fail by it.
            expected = isinstance(error, BusUnavailable | TimeoutError)
            log.warning(
                "%d event(s) not published directly, left to the projector: %s",
                *(len(waiting), str(error) or type(error).__name__),
                exc_info=not expected,
            )
        sent = [event_id for event_id in everything if event_id not in waiting]
        await self._settle(sent, [] if limit.expired() else list(waiting))
        return [event for event in envelopes if event.id in waiting or not self.policy.holds(event)]

    async def _try(self, waiting: dict[UUID, Envelope]) -> None:
        """Removes from `waiting` what the bus has stored. Raises BusUnavailable after the last attempt."""
        # Imported here: applications without a bus need not pay for it at their start.
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

        pause = self.policy.first_pause_seconds
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self.policy.tries),
            wait=wait_exponential(multiplier=pause) + wait_random(0, pause),
            retry=retry_if_exception_type(BusUnavailable),
            sleep=self._sleep,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                try:
                    await self._bus.publish(list(waiting.values()))
                    waiting.clear()
                except EventsRefused as error:
                    # Whether a refused event is tried again or given up is for the projector, which counts.
                    for event_id in waiting.keys() - error.refused.keys():
                        del waiting[event_id]
                except BusUnavailable as error:
                    for event_id in error.stored:
                        waiting.pop(event_id, None)
                    if waiting:
                        raise

    async def _settle(self, sent: list[UUID], unsent: list[UUID]) -> None:
        try:
            async with self._session_factory() as session, session.begin():
                if sent:
                    await session.execute(self._mark_sent, {"ids": sent}, bind_arguments=self._where)
                if unsent:
                    await session.execute(self._release, {"ids": unsent}, bind_arguments=self._where)
        except Exception:
            # A driver raises errors of its own while it connects, and what is committed must not fail by any.
            log.warning("published events not marked, the projector will send them again", exc_info=True)
