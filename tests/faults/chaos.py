"""Projectors that are killed all the time, and a broker that restarts: what arrives, against what was committed.

    make chaos EVENTS=100000 SECONDS=600 SEED=1 GUARANTEE=ExactlyOnce

Several `outbox-projector run` processes deliver one tenant's events while they are written: about every second one of
them is killed with -9, or stopped for longer than any lease and continued later, and a new one is started. The broker
is killed with -9 twice. In the end the topic is read from its beginning and compared with the table.

The last line is one JSON object: written, received, lost, duplicated, out_of_order, kills, zombies, broker_restarts,
lane_changes, seconds. The exit code is 1 if anything was lost, or still waits when the time is up.
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

TENANT = "chaos"
AGGREGATES = 500
WORKERS = 3
ROWS_A_TRANSACTION = 100
BROKER_RESTARTS = 2


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


@dataclass
class Chaos:
    """One run."""

    events: int
    deadline: float
    random: random.Random
    database_url: str
    engine: AsyncEngine
    topic: str
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
        troubles = [asyncio.create_task(trouble()) for trouble in (self._kill, self._restart_broker)]
        try:
            await self._write()
            await self._delivered()
        finally:
            for task in troubles:
                task.cancel()
            await asyncio.gather(*troubles, return_exceptions=True)
            for process in [*self.workers, *(process for _, process in self.asleep)]:
                process.kill()
                await process.wait()

    async def _write(self) -> None:
        """Each transaction locks its aggregate, as a repository does: per aggregate `seq` is the order of commits."""
        insert = text(
            "INSERT INTO outbox (tenant_id, aggregate_id, type, payload) "
            "SELECT :tenant, :aggregate, 'chaos.Happened', jsonb_build_object('n', n) "
            "FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n"
        )
        counts: Counter[str] = Counter()
        while self.figures.written < self.events and time.monotonic() < self.deadline:
            async with self.engine.begin() as connection:
                for _ in range(self.random.randint(1, 10)):
                    aggregate = f"aggregate-{self.random.randrange(AGGREGATES)}"
                    count = min(ROWS_A_TRANSACTION // 10, self.events - self.figures.written)
                    first = counts[aggregate] + 1
                    counts[aggregate] += count
                    values = {"tenant": TENANT, "aggregate": aggregate, "first": first, "last": first + count - 1}
                    await connection.execute(insert, values)
                    self.figures.written += count
        say(f"{self.figures.written} events are written")

    async def _delivered(self) -> None:
        waiting = text("SELECT count(*) FROM outbox WHERE status = 'NEW'")
        left, told = -1, 0.0
        while left and time.monotonic() < self.deadline:
            async with self.engine.connect() as connection:
                left = (await connection.execute(waiting)).scalar_one()
            for number, delivered in enumerate(self.part_delivered, start=1):
                if self.events - left >= self.events * number // (BROKER_RESTARTS + 1):
                    delivered.set()
            if time.monotonic() - told > 10:
                told = time.monotonic()
                say(f"{left} wait; {self.figures.kills} kills, {self.figures.broker_restarts} restarts of the broker")
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
            pid_file = Daemon(broker.NAME, ()).pid_file
            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            await asyncio.to_thread(broker.start)
            self.figures.broker_restarts += 1

    async def _started(self) -> asyncio.subprocess.Process:
        variables = {
            "OUTBOX_TENANT_ID": TENANT,
            "OUTBOX_DATABASE_URL": self.database_url,
            "OUTBOX_PULSAR_SERVICE_URL": os.environ["PULSAR_URL"],
            "OUTBOX_PULSAR_TOPIC": self.topic,
            "OUTBOX_GUARANTEE": os.environ.get("GUARANTEE") or "ExactlyOnce",
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
            rows = await connection.execute(text("SELECT id::text, aggregate_id FROM outbox ORDER BY seq"))
            committed = {row.id: number for number, row in enumerate(rows)}
        seen: Counter[str] = Counter()
        last: dict[str, int] = {}
        for event_id, aggregate in await asyncio.to_thread(_received, self.topic):
            self.figures.received += 1
            seen[event_id] += 1
            if seen[event_id] == 1:
                self.figures.out_of_order += committed[event_id] < last.get(aggregate, -1)
                last[aggregate] = max(last.get(aggregate, -1), committed[event_id])
        self.figures.written = len(committed)
        lost = committed.keys() - seen.keys()
        self.figures.lost = len(lost)
        if lost:
            places = sorted(committed[event_id] for event_id in lost)
            say(f"lost are rows {places[0]} to {places[-1]} of {len(committed)}")
        self.figures.duplicated = sum(count - 1 for count in seen.values())


def _received(topic: str) -> list[tuple[str, str]]:
    """All messages of the topic: event id and aggregate."""
    client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        found = []
        while reader.has_message_available():
            message = reader.read_next(20_000)
            found.append((message.properties()["event_id"], message.partition_key()))
        return found
    finally:
        client.close()


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
        chaos = Chaos(
            events=events,
            deadline=began + seconds,
            random=random.Random(seed),
            database_url=url,
            engine=engine,
            topic=f"persistent://{namespace}/events",
        )
        try:
            await chaos.run()
            chaos.figures.seconds = round(time.monotonic() - began, 1)
            await chaos.compare()
        finally:
            await engine.dispose()
    print(json.dumps(vars(chaos.figures)))
    return 1 if chaos.figures.lost else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
