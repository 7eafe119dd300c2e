"""Projectors that are killed all the time, and a broker that restarts: what arrives, against what was committed.

    make chaos EVENTS=100000 SECONDS=600 SEED=1 GUARANTEE=ExactlyOnce

Several `outbox-projector run` processes share one tenant's lanes, and deliver while several writers write: about every
second one of them is killed with -9, or stopped for longer than any lease and continued later, and a new one is
started. Now and then the new ones want another number of lanes. The broker is killed with -9 twice. In the end the
partitions of the topic are read from their beginnings and compared with the table.

An aggregate that moved to another lane, and so to another partition, is in order if it is so by the times at which its
events were published.

The last line is one JSON object: written, received, lost, duplicated, out_of_order, kills, zombies, broker_restarts,
lane_changes, seconds. The exit code is 1 if anything was lost or out of order, still waits when the time is up, or
with ExactlyOnce was doubled.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import aiohttp
import pulsar
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bento_outbox.database_url import parse_database_url
from bento_outbox.schema import apply_schema
from sandbox import pulsar as broker
from sandbox.daemons import Daemon
from tests.support.programs import SCRIPTS, environment_with
from tests.support.pulsar_topics import Namespaces
from tests.support.waiting import eventually

TENANT = "chaos"
AGGREGATES = 500
WORKERS = 5
WRITERS = 3
MOST_OF_AN_AGGREGATE = 10
BROKER_RESTARTS = 2
PARTITIONS = 4
LANES = (1, 2, 3, 4)


@dataclass
class Figures:
    """What happened."""

    written: int = 0
    received: int = 0
    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    kills: int = 0
    zombies: int = 0
    broker_restarts: int = 0
    lane_changes: int = 0
    seconds: float = 0.0

    def broken(self, *, exactly_once: bool) -> bool:
        """Whether a promise was."""
        return bool(self.lost or self.out_of_order or (exactly_once and self.duplicated))


@dataclass
class Chaos:
    """One run."""

    events: int
    deadline: float
    random: random.Random
    database_url: str
    engine: AsyncEngine
    topic: str
    lanes: int = 2
    figures: Figures = field(default_factory=Figures)
    workers: list[asyncio.subprocess.Process] = field(default_factory=list)
    asleep: list[tuple[float, asyncio.subprocess.Process]] = field(default_factory=list)
    part_delivered: list[asyncio.Event] = field(
        default_factory=lambda: [asyncio.Event() for _ in range(BROKER_RESTARTS)]
    )

    async def run(self) -> None:
        """Until everything is delivered, or the time is up."""
        for _ in range(WORKERS):
            self.workers.append(await self._started())
        troubles = [
            asyncio.create_task(trouble()) for trouble in (self._kill, self._restart_broker, self._change_lanes)
        ]
        try:
            await asyncio.gather(*(self._write() for _ in range(WRITERS)), self._delivered())
        finally:
            for task in troubles:
                task.cancel()
            await asyncio.gather(*troubles, return_exceptions=True)
            for process in [*self.workers, *(process for _, process in self.asleep)]:
                process.kill()
                await process.wait()

    async def _write(self) -> None:
        """One of several writers. Each transaction changes its aggregates, which locks them, before it inserts."""
        change = text("UPDATE aggregate SET events = events + :count WHERE id = :aggregate RETURNING events")
        insert = text(
            "INSERT INTO outbox (tenant_id, aggregate_id, type, payload) "
            "SELECT :tenant, :aggregate, 'chaos.Happened', jsonb_build_object('n', n) "
            "FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n"
        )
        while (room := self.events - self.figures.written) > 0 and time.monotonic() < self.deadline:
            count = min(MOST_OF_AN_AGGREGATE, room)
            aggregates = sorted(self.random.sample(range(AGGREGATES), k=min(self.random.randint(1, 10), room // count)))
            self.figures.written += count * len(aggregates)
            async with self.engine.begin() as connection:
                for aggregate in (f"aggregate-{number}" for number in aggregates):
                    changed = await connection.execute(change, {"count": count, "aggregate": aggregate})
                    last = changed.scalar_one()
                    values = {"tenant": TENANT, "aggregate": aggregate, "first": last - count + 1, "last": last}
                    await connection.execute(insert, values)

    async def _delivered(self) -> None:
        counts = text("SELECT count(*) FILTER (WHERE status = 'NEW') AS waiting, count(*) AS written FROM outbox")
        done, told = False, 0.0
        while not done and time.monotonic() < self.deadline:
            async with self.engine.connect() as connection:
                waiting, written = (await connection.execute(counts)).one()
            for number, delivered in enumerate(self.part_delivered, start=1):
                if written - waiting >= self.events * number // (BROKER_RESTARTS + 1):
                    delivered.set()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(
                    f"{written} written, {waiting} wait; {self.figures.kills} kills, {self.figures.zombies} zombies, "
                    f"{self.figures.lane_changes} changes of lanes, {self.figures.broker_restarts} of the broker"
                )
            done = written == self.events and waiting == 0
            await asyncio.sleep(0.5)

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(self.random.uniform(0.5, 1.5))
            victim = self.workers.pop(self.random.randrange(len(self.workers)))
            if self.random.random() < 0.25:
                victim.send_signal(signal.SIGSTOP)
                self.asleep.append((time.monotonic() + self.random.uniform(5, 25), victim))
                self.figures.zombies += 1
            else:
                victim.kill()
                await victim.wait()
                self.figures.kills += 1
            self.workers.append(await self._started())
            for entry in [entry for entry in self.asleep if entry[0] < time.monotonic()]:
                self.asleep.remove(entry)
                entry[1].send_signal(signal.SIGCONT)
                self.workers.append(entry[1])
            while len(self.workers) > WORKERS + 2:
                surplus = self.workers.pop(0)
                surplus.kill()
                await surplus.wait()

    async def _restart_broker(self) -> None:
        for delivered in self.part_delivered:
            await delivered.wait()
            await _restart(signal.SIGKILL)
            self.figures.broker_restarts += 1

    async def restart_broker_in_order(self) -> None:
        """After a kill a standalone broker registers its bookie and takes that back, again and again, until it is
        stopped in order: a reader is refused now and then, and whoever uses the sandbox next lacks a core."""
        await asyncio.to_thread(broker.start)  # it may be under way
        await _restart(signal.SIGTERM)

    async def _change_lanes(self) -> None:
        """The next processes want another number, and the youngest decides."""
        lanes = text("SELECT lanes FROM outbox_layout")
        while True:
            await asyncio.sleep(self.random.uniform(2, 10))
            self.lanes = self.random.choice([number for number in LANES if number != self.lanes])
            current = None
            while current != self.lanes:
                await asyncio.sleep(0.2)
                async with self.engine.connect() as connection:
                    current = (await connection.execute(lanes)).scalar()
            self.figures.lane_changes += 1

    async def _started(self) -> asyncio.subprocess.Process:
        variables = {
            "OUTBOX_TENANT_ID": TENANT,
            "OUTBOX_DATABASE_URL": self.database_url,
            "OUTBOX_PULSAR_SERVICE_URL": os.environ["PULSAR_URL"],
            "OUTBOX_PULSAR_TOPIC": self.topic,
            "OUTBOX_GUARANTEE": _guarantee(),
            "OUTBOX_LANES": str(self.lanes),
            "OUTBOX_HTTP_PORT": "0",
            "OUTBOX_LOG_LEVEL": "ERROR",
        }
        return await asyncio.create_subprocess_exec(
            str(SCRIPTS / "outbox-projector"),
            "run",
            env=environment_with(variables),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )

    async def compare(self) -> None:
        """The topic with the table."""
        async with self.engine.connect() as connection:
            committed = set((await connection.execute(text("SELECT id::text FROM outbox"))).scalars())
        seen: Counter[str] = Counter()
        last: Counter[str] = Counter()
        for event in await asyncio.to_thread(_received, self.topic):
            self.figures.received += 1
            seen[event.id] += 1
            if seen[event.id] == 1:
                self.figures.out_of_order += event.number < last[event.aggregate]
                last[event.aggregate] = max(last[event.aggregate], event.number)
        self.figures.written = len(committed)
        self.figures.lost = len(committed - seen.keys())
        self.figures.duplicated = sum(count - 1 for count in seen.values())


@dataclass(frozen=True)
class Received:
    """One message."""

    id: str
    aggregate: str
    number: int
    published: int  # milliseconds


def _received(topic: str) -> list[Received]:
    """All messages, by the time of their publishing; those of one partition stay in its order."""
    client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    found: list[Received] = []
    try:
        for partition in client.get_topic_partitions(topic):
            reader = client.create_reader(partition, pulsar.MessageId.earliest)
            while reader.has_message_available():
                message = reader.read_next(20_000)
                event_id, number = message.properties()["event_id"], json.loads(message.data())["n"]
                found.append(Received(event_id, message.partition_key(), number, message.publish_timestamp()))
    finally:
        client.close()
    return sorted(found, key=lambda event: event.published)


@asynccontextmanager
async def own_namespace() -> AsyncIterator[str]:
    """A namespace that deduplicates, removed afterwards."""
    async with aiohttp.ClientSession() as http:
        namespaces = Namespaces(os.environ["PULSAR_ADMIN_URL"], http)
        name = f"public/chaos-{uuid4().hex[:8]}"
        await namespaces.create(name)
        await namespaces.set(name, "deduplication", True)
        # Nobody subscribes: without retention the broker would drop what it stored before it was restarted.
        await namespaces.set(name, "retention", {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1})
        try:
            yield name
        finally:
            await namespaces.delete(name)


@asynccontextmanager
async def own_database() -> AsyncIterator[str]:
    """The URL of a database with the outbox, removed afterwards."""
    server = create_async_engine(
        parse_database_url(os.environ["DATABASE_URL"]), isolation_level="AUTOCOMMIT", poolclass=NullPool
    )
    name = f"chaos_{uuid4().hex[:8]}"
    async with server.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))
    finally:
        async with server.connect() as connection:
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


async def _restart(how: signal.Signals) -> None:
    """The broker, whatever it was doing."""
    daemon = Daemon(broker.NAME, ())
    os.kill(int(daemon.pid_file.read_text()), how)

    async def has_ended() -> bool:
        return not daemon.running()

    await eventually(has_ended)
    await asyncio.to_thread(broker.start)


async def _aggregates(engine: AsyncEngine) -> None:
    """What the writers change, beside the events that tell of it."""
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE aggregate (id text PRIMARY KEY, events int NOT NULL DEFAULT 0)"))
        insert = text("INSERT INTO aggregate (id) SELECT 'aggregate-' || n FROM generate_series(0, :last) AS n")
        await connection.execute(insert, {"last": AGGREGATES - 1})


def _guarantee() -> str:
    return os.environ.get("GUARANTEE") or "ExactlyOnce"


def say(line: str) -> None:
    """Progress, for people."""
    print(f"  {line}", flush=True)


async def main() -> int:
    """The exit code."""
    events, seconds = int(os.environ.get("EVENTS") or 100_000), float(os.environ.get("SECONDS") or 600)
    seed = int(os.environ.get("SEED") or random.randrange(10_000))
    began = time.monotonic()
    say(f"{events} events, at most {seconds:.0f} s, seed {seed}")
    async with own_database() as url, own_namespace() as namespace:
        engine = create_async_engine(parse_database_url(url))
        await apply_schema(engine)
        await _aggregates(engine)
        topic = f"persistent://{namespace}/events"
        async with aiohttp.ClientSession() as http:
            await Namespaces(os.environ["PULSAR_ADMIN_URL"], http).partition(topic, PARTITIONS)
        chaos = Chaos(
            events=events,
            deadline=began + seconds,
            random=random.Random(seed),
            database_url=url,
            engine=engine,
            topic=topic,
        )
        try:
            await chaos.run()
            chaos.figures.seconds = round(time.monotonic() - began, 1)
            await chaos.restart_broker_in_order()
            await chaos.compare()
        finally:
            await engine.dispose()
    print(json.dumps(vars(chaos.figures)))
    return 1 if chaos.figures.broken(exactly_once=_guarantee() == "ExactlyOnce") else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
