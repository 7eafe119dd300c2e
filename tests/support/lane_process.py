"""`python -m tests.support.lane_process TENANT TOPIC BATCHING`: one contender for lane 0, until it is killed.

Logs `busy` once it has settled a few flights as the owner. Reads EVENTS_DATABASE and PULSAR_URL.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import cast

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from bento_outbox.database_url import parse_database_url
from bento_outbox.pulsar_client import Batching
from bento_outbox.table import outbox_table
from outbox_projector.flights import Lease, LeaseLost
from outbox_projector.lane import Lane
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.policies import Polling, Retries
from outbox_projector.postgres_leases import PostgresLeases
from outbox_projector.projector import Unobserved
from outbox_projector.pulsar_lane import PulsarLanePublisher
from outbox_projector.sessions import borrowed

FLIGHTS_UNTIL_BUSY = 5
LEASE_SECONDS = 1.0


class Busy(Unobserved):
    """Tells the test when there is something to interrupt."""

    def __init__(self) -> None:
        self._flights = 0

    def counter_behind(self, topic: str) -> None:
        print(json.dumps({"event": "counter behind"}), flush=True)

    def settled(self, *, sent: int, retried: int, failed: int) -> None:
        self._flights += 1
        if self._flights == FLIGHTS_UNTIL_BUSY:
            print(json.dumps({"event": "busy"}), flush=True)


async def main(tenant: str, topic: str, batching: Batching) -> None:
    engine = create_async_engine(parse_database_url(os.environ["EVENTS_DATABASE"]))
    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, expire_on_commit=False)
    leases = PostgresLeases(borrowed(sessions), outbox_table, tenant_id=tenant, name=str(os.getpid()), lanes=1)
    await leases.beat()
    store = PostgresLaneStore(
        borrowed(sessions),
        outbox_table,
        tenant_id=tenant,
        retries=Retries(),
        topic_of=lambda _event: topic,
        by_key=batching == "KeyBased",
        lease_seconds=LEASE_SECONDS,
    )
    while True:
        lease = await leases.acquire(0, seconds=LEASE_SECONDS)
        if lease is None:
            await asyncio.sleep(0.02)
            continue
        try:
            await _lane(lease, store, tenant, topic, batching).run()
        except LeaseLost:
            print(json.dumps({"event": "lost"}), flush=True)


def _lane(lease: Lease, store: PostgresLaneStore, tenant: str, topic: str, batching: Batching) -> Lane:
    publisher = PulsarLanePublisher(
        os.environ["PULSAR_URL"], producer_name=f"{tenant}-0", configured_topic=topic, batching=batching
    )
    return Lane(
        lease=lease,
        store=store,
        publisher=publisher,
        batch_size=50,
        polling=Polling(),
        observer=Busy(),
        rest=asyncio.sleep,
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], cast("Batching", sys.argv[3])))
