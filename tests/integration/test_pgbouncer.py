"""The projector behind the real pgbouncer, whose clients share a few connections of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bento_outbox import InMemoryMessageBus
from bento_outbox.table import outbox_table
from outbox_projector import Polling, Retries
from outbox_projector.bus_lane import BusLanePublisher
from outbox_projector.database import Database, FixedUrl, transaction
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.loop import LaneProjector
from outbox_projector.postgres_leases import PostgresLeases
from outbox_projector.projector import Unobserved
from tests.support.pgbouncer import pgbouncer
from tests.support.rows import Rows
from tests.support.waiting import eventually

CLIENTS = 6
STATEMENTS = 20


@pytest.fixture
async def databases(database_url: str, tmp_path: Path) -> AsyncIterator[list[Database]]:
    """Those of several projectors, through one pooler."""
    async with pgbouncer(database_url, tmp_path, "transaction") as through:
        databases = [Database(FixedUrl(through)) for _ in range(CLIENTS)]
        yield databases
        for database in databases:
            await database.close()


async def test_statements_of_transactions_do_not_get_in_each_others_way(databases: list[Database]) -> None:
    async def answers(database: Database, client: int) -> list[int]:
        found = []
        for number in range(STATEMENTS):
            async with transaction(database) as connection:
                # Few texts, so that each comes again on another connection, and in another order.
                for kind in (number % 7, number % 5):
                    found.append(await connection.fetchval(f"SELECT $1::int + {kind} * 1000", client))
        return found

    found = await asyncio.gather(*(answers(database, client) for client, database in enumerate(databases)))

    assert found == [
        [client + kind * 1000 for number in range(STATEMENTS) for kind in (number % 7, number % 5)]
        for client in range(CLIENTS)
    ]


async def test_statements_outside_of_transactions_do_not_either(databases: list[Database]) -> None:
    async def answers(database: Database, client: int) -> list[int]:
        async with database() as connection:
            return [await connection.fetchval(f"SELECT {number} + $1::int", client) for number in range(STATEMENTS)]

    found = await asyncio.gather(*(answers(database, client) for client, database in enumerate(databases)))

    assert found == [[client + number for number in range(STATEMENTS)] for client in range(CLIENTS)]


async def test_a_direct_connection_keeps_its_prepared_statements(database_url: str) -> None:
    """Without them each statement would cost another round trip."""
    database = Database(FixedUrl(database_url))
    async with database() as connection:
        for _ in range(2):
            prepared = await connection.fetch("SELECT name FROM pg_prepared_statements")
    await database.close()

    assert len(prepared) >= 1


def _projector(database: Database, bus: InMemoryMessageBus, tenant: str, name: str) -> LaneProjector:
    return LaneProjector(
        leases=PostgresLeases(database, outbox_table, tenant_id=tenant, name=name, lanes=1),
        store=PostgresLaneStore(
            database, outbox_table, tenant_id=tenant, retries=Retries(), topic_of=lambda event: event.topic or ""
        ),
        publisher_of=lambda _: BusLanePublisher(bus),
        batch_size=10,
        polling=Polling(),
        observer=Unobserved(),
    )


async def test_several_projectors_deliver(
    databases: list[Database], rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    await rows.insert_many(200, aggregates=10)
    projectors = [
        _projector(database, memory_bus, rows.tenant, name)
        for database, name in zip(databases, ("one", "two"), strict=False)
    ]
    running = [asyncio.create_task(projector.run_forever()) for projector in projectors]

    async def all_sent() -> bool:
        return await rows.count("SENT") == 200

    await eventually(all_sent)
    for projector in projectors:
        projector.stop()
    await asyncio.gather(*running)


async def test_a_pooler_without_transactions_is_told(database_url: str, tmp_path: Path) -> None:
    async with pgbouncer(database_url, tmp_path, "statement") as through:
        database = Database(FixedUrl(through))
        with pytest.raises(DatabaseUnavailable, match="transaction blocks not allowed in statement pooling mode"):
            async with transaction(database):
                pass
        await database.close()
