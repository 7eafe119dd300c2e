"""Lanes and their owners on the real tables."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Table, text
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import Envelope
from bento_outbox.table import outbox_table
from outbox_projector.flights import LEASE_SECONDS, Flight, Lease, Turn
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.postgres_leases import PostgresLeases
from outbox_projector.sessions import borrowed

Sessions = Callable[[], AsyncSession]
TOPIC = "the-topic"
CLAIM = Turn(limit=100, floors={TOPIC: 1})


def topic_of(event: Envelope) -> str:
    """Where an event goes: to the topic that its row names, or to TOPIC."""
    return event.topic or TOPIC


async def acquired(
    sessions: Sessions,
    tenant: str,
    *,
    name: str = "we",
    lane: int = 0,
    lanes: int = 1,
    seconds: float = LEASE_SECONDS,
    table: Table = outbox_table,
) -> Lease:
    """The lease of a lane that is free, as a process of this name gets it."""
    leases = PostgresLeases(borrowed(sessions), table, tenant_id=tenant, name=name, lanes=lanes)
    assert await leases.beat() is not None
    lease = await leases.acquire(lane, seconds=seconds)
    assert lease is not None
    return lease


async def claimed(store: PostgresLaneStore, lease: Lease, turn: Turn = CLAIM) -> Flight:
    """The flight that a turn claims; fails when there is none."""
    flight = (await store.turn(lease, turn)).flight
    assert flight is not None
    return flight


async def blocked(sessions: Sessions) -> int:
    """How many connections to this database wait for a lock that another one holds."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pg_blocking_pids(pid) <> '{}'"
    )
    async with sessions() as session:
        found: int = (await session.execute(text(waiting))).scalar_one()
    return found
