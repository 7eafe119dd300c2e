"""What an event costs the table, by way of indexing and marking; and whether the rate stays flat as the table grows.

The projector's own statements claim and settle, 1,000 rows a turn; nothing is published. Rows come in waves of one
transaction each, and only draining them is timed.

    marked        the table as it is: partial indexes, a SENT row leaves the one that the claim reads
    one_index     one index (tenant_id, status, seq) over all rows, SENT ones included
    hot           (tenant_id, seq) and no status in any index, fillfactor 45: marking changes no index. The claim has to
                  be told where to begin, or it would read all SENT rows; counting and late commits are unsolved
    deleted       the table as it is, rows are deleted instead of marked (retention.sentSeconds: 0)

WAL is that of writing, claiming and settling an event, and of one VACUUM at the end; it is counted for the whole
server, on which nothing else should run. `last_to_first_tenth` compares the rates over EVENTS (environment variable,
default 1,000,000) with autovacuum as the migration sets it, marked and deleted; `held_open` has a transaction open
meanwhile that has read the table, as a forgotten session does, so that no dead row can be removed. That goes on for
EVENTS or for ten minutes, whichever is over first.
"""

from __future__ import annotations

import asyncio
import math
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from bench.figures import Figures
from bench.harness.database import TENANT, Database, own_database
from bento_outbox.database_url import parse_database_url
from bento_outbox.table import outbox_table
from outbox_projector.flights import Flight, Lease, Turn
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.policies import Retries
from outbox_projector.postgres_leases import PostgresLeases
from outbox_projector.sessions import borrowed

PARTS = ("postgres",)
BATCH = 1000
TOPIC = "nowhere"
HELD_OPEN_SECONDS = 600
FROM_THE_FLOOR = "AND outbox.seq >= CAST(current_setting('bench.floor') AS bigint) AND available_at <="


@dataclass(frozen=True)
class Method:
    """How the table is indexed, and what becomes of a row that is sent."""

    changes: tuple[str, ...] = ()
    keep_sent: bool = True
    told_where_to_begin: bool = False


METHODS = {
    "marked": Method(),
    "one_index": Method(
        (
            "DROP INDEX outbox_tenant_status_seq, outbox_sent",
            "CREATE INDEX outbox_all ON outbox (tenant_id, status, seq)",
        )
    ),
    "hot": Method(
        (
            "DROP INDEX outbox_tenant_status_seq, outbox_sent, outbox_retry, outbox_failed_key",
            "CREATE INDEX outbox_seq ON outbox (tenant_id, seq)",
            "ALTER TABLE outbox SET (fillfactor = 45)",
        ),
        told_where_to_begin=True,
    ),
    "deleted": Method(keep_sent=False),
}


@dataclass
class Cost:
    """Of one run: bytes for each event, and rows that vacuum has to remove; events per second, wave by wave."""

    events: int
    wal: float
    index: float
    table: float
    dead: int
    rates: list[float]


def run(*, smoke: bool) -> Figures:
    """The figures."""
    events = 2_000 if smoke else 50_000
    long = 2_000 if smoke else int(os.environ.get("EVENTS") or 1_000_000)
    costs: dict[str, list[Cost]] = {name: [] for name in METHODS}
    for _ in range(1 if smoke else 3):
        for name, method in METHODS.items():
            costs[name].append(_cost(method, events, wave=events // 5, vacuum_by_hand=True))
    figures = Figures()
    for name, samples in costs.items():
        _add(figures, name, samples)
    for name in ("marked", "deleted"):
        for held_open in (False, True):
            cost = _cost(METHODS[name], long, wave=long // 100, held_open=held_open)
            suffix = f"{'' if name == 'marked' else '_deleted'}{'_held_open' if held_open else ''}"
            tenth = max(1, len(cost.rates) // 10)
            first, last = statistics.median(cost.rates[:tenth]), statistics.median(cost.rates[-tenth:])
            figures.add(f"last_to_first_tenth{suffix}", last / first, goal="" if held_open else "≥ 0.9")
            figures.add(f"last_tenth{suffix}", last, "events/s")
            figures.add(f"dead_rows{suffix}", cost.dead, "rows")
            if held_open:
                figures.add(f"events{suffix}", cost.events)
    return figures


def _add(figures: Figures, name: str, costs: Sequence[Cost]) -> None:
    suffix = "" if name == "marked" else f"_{name}"
    figures.add(f"wal_bytes_per_event{suffix}", [cost.wal for cost in costs], "bytes")
    figures.add(f"index_bytes_per_event{suffix}", [cost.index for cost in costs], "bytes")
    figures.add(f"table_bytes_per_event{suffix}", [cost.table for cost in costs], "bytes")
    figures.add(f"dead_rows_per_event{suffix}", [cost.dead / cost.events for cost in costs], "rows")
    figures.add(f"events_per_second{suffix}", [statistics.median(cost.rates) for cost in costs], "events/s")


def _cost(method: Method, events: int, *, wave: int, vacuum_by_hand: bool = False, held_open: bool = False) -> Cost:
    """In a database of its own."""
    with own_database() as database, _reader(database if held_open else None):
        for change in method.changes:
            database.connection.execute(change)
        if vacuum_by_hand:
            database.connection.execute("ALTER TABLE outbox SET (autovacuum_enabled = false)")
        database.connection.execute("CHECKPOINT")
        begin = str(database.value("SELECT pg_current_wal_lsn()"))
        indexes = database.value("SELECT pg_indexes_size('outbox')")
        most_seconds = HELD_OPEN_SECONDS if held_open else math.inf
        rates = asyncio.run(_drained(database, method, events // wave, wave, most_seconds))
        events = len(rates) * wave
        grown = database.value("SELECT pg_indexes_size('outbox')") - indexes
        dead = _dead_rows(database)
        if vacuum_by_hand:
            database.connection.execute("VACUUM outbox")
        return Cost(
            events=events,
            wal=float(database.value("SELECT pg_current_wal_lsn() - CAST(%s AS pg_lsn)", begin)) / events,
            index=grown / events,
            table=database.value("SELECT pg_table_size('outbox')") / events,
            dead=dead,
            rates=rates,
        )


def _dead_rows(database: Database) -> int:
    """That vacuum has to remove, as the server counts them."""
    return int(database.value("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'outbox'"))


@contextmanager
def _reader(database: Database | None) -> Iterator[None]:
    """A transaction that has read the table and stays open; without a database none."""
    if database is None:
        yield
        return
    with psycopg.connect(database.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT count(*) FROM outbox")
        yield


async def _drained(database: Database, method: Method, waves: int, rows: int, most_seconds: float) -> list[float]:
    """Events per second of each wave; none begins after so many seconds."""
    engine = create_async_engine(parse_database_url(database.url), pool_size=1, max_overflow=0)
    try:
        lane = await _Lane.of(engine, method)
        rates: list[float] = []
        until = time.monotonic() + most_seconds
        for number in range(waves):
            if rates and time.monotonic() > until:
                break
            database.insert(rows, first=number * rows + 1)
            began = time.perf_counter()
            await lane.drain(first_seq=number * rows + 1, rows=rows)
            rates.append(rows / (time.perf_counter() - began))
        return rates
    finally:
        await engine.dispose()


def _topic_of(_: object) -> str:
    return TOPIC


@dataclass
class _Lane:
    """The owner of the lane, as fast as the database answers."""

    engine: AsyncEngine
    store: PostgresLaneStore
    lease: Lease
    told_where_to_begin: bool

    @classmethod
    async def of(cls, engine: AsyncEngine, method: Method) -> _Lane:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        store = PostgresLaneStore(
            borrowed(sessions),
            outbox_table,
            tenant_id=TENANT,
            retries=Retries(),
            topic_of=_topic_of,
            keep_sent=method.keep_sent,
            lease_seconds=3600,
        )
        if method.told_where_to_begin:
            claim = store._sql["candidates"]
            before, due, after = claim._sql.partition("due AS (")
            assert "AND available_at <=" in after, "the claim has changed"
            after = after.replace("AND available_at <=", FROM_THE_FLOOR, 1)
            claim._sql = f"{before}{due}{after}"
        leases = PostgresLeases(borrowed(sessions), outbox_table, tenant_id=TENANT, name="bench", lanes=1)
        await leases.beat()
        lease = await leases.acquire(0, seconds=3600)
        assert lease is not None
        return cls(engine, store, lease, method.told_where_to_begin)

    async def drain(self, *, first_seq: int, rows: int) -> None:
        """Claims and settles until nothing is left."""
        settled: Flight | None = None
        done = 0
        while True:
            if self.told_where_to_begin:
                async with self.engine.begin() as connection:
                    floor = {"floor": str(first_seq + done)}
                    await connection.execute(text("SELECT set_config('bench.floor', :floor, false)"), floor)
            turned = await self.store.turn(self.lease, Turn(settled=settled, limit=BATCH, floors={TOPIC: 1}))
            done += len(settled.events) if settled else 0
            settled = turned.flight
            if settled is None:
                assert done == rows, f"{done} of {rows} events were claimed"
                return
