"""A process that commits events at a steady rate, and then tells when each was committed.

    python -m bench.harness.latency_writer DATABASE_URL TENANT FIRST EVENTS RATE

Inserts as the library does, and wakes the projector as the library does. The n-th event bears its number in the
payload. Prints one line for each event: the nanoseconds of the monotonic clock at which its COMMIT was answered.
"""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg
import uvloop
from sqlalchemy.ext.asyncio import create_async_engine

from bento_outbox.channels import channel_of
from bento_outbox.database_url import parse_database_url
from bento_outbox.table import outbox_table
from bento_outbox.waking import waker_of

AGGREGATES = 100
COMMITS_A_SECOND = 500
"""At most; above, a commit has several events, as that many writers at once would need a machine of their own."""

INSERT = """
INSERT INTO outbox (tenant_id, aggregate_id, type, schema_id, schema_ver, payload)
SELECT $1, 'aggregate-' || n % $4, 'bench.OrderPlaced', 'bench.OrderPlaced', 1,
       jsonb_build_object('number', n, 'note', repeat('x', 260))
FROM generate_series($2::bigint, $3::bigint) AS n
"""


async def write(url: str, tenant: str, first: int, events: int, rate: float) -> list[int]:
    """When each was committed."""
    engine = create_async_engine(parse_database_url(url))
    waker, channel = waker_of(engine.sync_engine), channel_of(outbox_table, tenant)
    connection = await asyncpg.connect(url)
    insert = await connection.prepare(INSERT)
    together = max(1, round(rate / COMMITS_A_SECOND))
    committed: list[int] = []
    began = time.monotonic()
    while len(committed) < events:
        await asyncio.sleep(began + len(committed) / rate - time.monotonic())
        start = first + len(committed)
        count = min(together, events - len(committed))
        await insert.fetch(tenant, start, start + count - 1, AGGREGATES)
        committed += [time.monotonic_ns()] * count
        waker.wake(channel)
    await waker.drained()
    await connection.close()
    await engine.dispose()
    return committed


if __name__ == "__main__":
    url, tenant, first, events, rate = sys.argv[1:]
    for moment in uvloop.run(write(url, tenant, int(first), int(events), float(rate))):
        print(moment)
