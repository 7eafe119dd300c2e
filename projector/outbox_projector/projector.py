"""The projector on Postgres, over any message bus: in order per key, at least once.

Exactly once into a topic takes a broker that deduplicates: `app.py` puts the same parts together with Pulsar's lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from uuid import uuid4

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import BusUnavailable, MessageBus
from bento_outbox.table import outbox_table
from outbox_projector.bus_lane import publishers_on
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Flight
from outbox_projector.lane import LaneObserver
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.loop import LaneProjector
from outbox_projector.policies import Polling, Retries
from outbox_projector.postgres_leases import PostgresLeases, this_process
from outbox_projector.sessions import borrowed

Ordering = Literal["Aggregate", "None"]
OnError = Literal["Continue", "HoldAggregate"]


class Unobserved:
    """The observer of a projector that nobody watches."""

    def turned(self) -> None: ...
    def database_answered(self, lane: int | None = None) -> None: ...
    def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None: ...
    def broker_answered(self, lane: int | None = None) -> None: ...
    def broker_failed(self, error: BusUnavailable, lane: int | None = None) -> None: ...
    def lane_ended(self, lane: int) -> None: ...
    def settled(self, *, sent: int, retried: int, failed: int) -> None: ...
    def counter_behind(self, topic: str) -> None: ...
    def given_up(self, flight: Flight) -> None: ...


class OutboxProjector(LaneProjector):
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
        name: str | None = None,
        lanes: int = 1,
        ordering: Ordering = "Aggregate",
        on_error: OnError = "Continue",
        retries: Retries | None = None,
        polling: Polling | None = None,
        observer: LaneObserver | None = None,
    ) -> None:
        """session_factory: opens a session on asyncpg, whose connection is used.

        batch_size: rows a flight, from 1.
        name: of this one among those that share the tenant's lanes, no other's at the same time. Whoever comes again
            under its name after a crash has its lanes back at once.
        lanes: of the tenant, 1 to 64; the youngest of those that share them decides.
        """
        connect = borrowed(session_factory)
        super().__init__(
            leases=PostgresLeases(
                connect, table, tenant_id=tenant_id, name=name or f"{this_process()}/{uuid4()}", lanes=lanes
            ),
            store=PostgresLaneStore(
                connect,
                table,
                tenant_id=tenant_id,
                retries=retries or Retries(),
                topic_of=lambda event: event.topic or "",  # the bus routes by itself
                ordered=ordering == "Aggregate",
                hold_aggregates=on_error == "HoldAggregate",
            ),
            publisher_of=publishers_on(message_bus),
            batch_size=batch_size,
            polling=polling or Polling(),
            observer=observer or Unobserved(),
        )
