"""The loops that teams write first, as rungs of a ladder; and the broker's client with nothing around it, its top.

Each drains rows of the same table, but marks them by the ORM, as its authors would.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from uuid import UUID

import pulsar
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bench.harness.database import Database
from bento_outbox.database_url import parse_database_url

BATCH = 200

Loop = Callable[[Database, str, int], float]
Publish = Callable[[pulsar.Producer, Sequence["OutboxRecord"]], Awaitable[object]]


class Base(DeclarativeBase):
    pass


class OutboxRecord(Base):
    """A row of the outbox, as far as the loops look at it."""

    __tablename__ = "outbox"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int]
    aggregate_id: Mapped[str]
    payload: Mapped[dict[str, object]] = mapped_column(JSONB)
    status: Mapped[str]


def one_by_one(database: Database, topic: str, rows: int) -> float:
    """Rows a second when the answer to each is awaited before the next is sent."""

    async def publish(producer: pulsar.Producer, records: Sequence[OutboxRecord]) -> None:
        for record in records:
            await asyncio.to_thread(producer.send, _payload(record), partition_key=record.aggregate_id)

    return asyncio.run(_drain(database, topic, rows, publish))


def batch_with_orm(database: Database, topic: str, rows: int) -> float:
    """Rows a second when the answers to a batch are awaited together."""

    async def publish(producer: pulsar.Producer, records: Sequence[OutboxRecord]) -> None:
        loop = asyncio.get_running_loop()

        def sent(record: OutboxRecord) -> asyncio.Future[object]:
            future: asyncio.Future[object] = loop.create_future()
            producer.send_async(
                _payload(record),
                lambda result, _: loop.call_soon_threadsafe(future.set_result, result),
                partition_key=record.aggregate_id,
            )
            return future

        await asyncio.gather(*map(sent, records))

    return asyncio.run(_drain(database, topic, rows, publish))


def raw_client(messages: Sequence[tuple[str, str, bytes]], topic: str, batch: int) -> float:
    """Messages a second of (event id, key, payload), without callbacks, one flush a batch, no database: the limit."""
    with _producer(
        topic,
        batching_enabled=True,
        batching_max_messages=batch + 1,
        batching_max_allowed_size_in_bytes=4 << 20,
        batching_max_publish_delay_ms=60_000,
        max_pending_messages=20_000,
        block_if_queue_full=True,
        send_timeout_millis=0,
    ) as producer:
        began = time.perf_counter()
        for start in range(0, len(messages), batch):
            for event_id, key, payload in messages[start : start + batch]:
                properties = {"event_id": event_id, "type": "bench.OrderPlaced"}
                producer.send_async(payload, None, partition_key=key, properties=properties)
            producer.flush()
        return len(messages) / (time.perf_counter() - began)


async def _drain(database: Database, topic: str, rows: int, publish: Publish) -> float:
    oldest = (
        select(OutboxRecord)
        .where(OutboxRecord.status == "NEW")
        .order_by(OutboxRecord.seq)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    engine = create_async_engine(parse_database_url(database.url))
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    done = 0
    with _producer(topic, batching_enabled=True) as producer:
        began = time.perf_counter()
        while done < rows:
            async with sessions() as session:
                records = (await session.scalars(oldest)).all()
                await publish(producer, records)
                for record in records:
                    record.status = "SENT"
                await session.commit()
            done += len(records)
        seconds = time.perf_counter() - began
    await engine.dispose()
    return done / seconds


def _payload(record: OutboxRecord) -> bytes:
    return json.dumps(record.payload).encode()


@contextmanager
def _producer(topic: str, **settings: object) -> Iterator[pulsar.Producer]:
    client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield client.create_producer(topic, **settings)
    finally:
        client.close()
