"""A model of database and broker, and a scheduler that decides at every await who goes on, who stops, and what fails.

The lanes are the real code. Everything they await is a *step* of the model: a future that the scheduler completes, now
or later, with an error before or after its effect, or never (kill -9, or a pause that may end after a takeover).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar
from uuid import UUID

from bento_outbox import BusUnavailable, Envelope, Refusal
from outbox_projector.database import DatabaseUnavailable
from outbox_projector.flights import Flight, FlightRefused, Lease, LeaseLost, Producer, Turn, Turned
from outbox_projector.lane import Lane
from outbox_projector.policies import Polling

_T = TypeVar("_T")
MOST_RETRIES = 3
OUTAGES = 0.06
STEPS_BETWEEN = 8
"""Passes of the event loop after which everybody waits for the model again."""


class Scheduler:
    """Who goes on next, by a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.trouble = True  # until it ends: then everything works, and what waits must get through
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._frozen: set[str] = set()
        self._killed: set[str] = set()

    async def step(self, worker: str, outage: Callable[[], Exception] | None, effect: Callable[[], _T]) -> _T:
        """`effect` happens at some moment, or never; an outage comes before it, or hides that it happened."""
        await self._turn_of(worker)
        self._perhaps(outage)
        result = effect()
        await self._turn_of(worker)
        self._perhaps(outage)
        return result

    def _perhaps(self, outage: Callable[[], Exception] | None) -> None:
        if outage and self.trouble and self.random.random() < OUTAGES:
            raise outage()

    async def _turn_of(self, worker: str) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if worker not in self._killed:
            self._waiting.append((worker, future))
        await future

    def freeze(self, worker: str) -> None:
        self._frozen.add(worker)

    def kill(self, worker: str) -> None:
        """Never goes on again."""
        self._frozen.discard(worker)
        self._waiting = [entry for entry in self._waiting if entry[0] != worker]
        self._killed.add(worker)

    def thaw(self) -> None:
        """Somebody who slept goes on, as if nothing had happened meanwhile."""
        if self._frozen:
            self._frozen.remove(self.random.choice(sorted(self._frozen)))

    async def go_on(self) -> None:
        """Lets one go on, and with it whatever follows, up to its next step."""
        ready = [entry for entry in self._waiting if entry[0] not in self._frozen]
        if ready:
            entry = self.random.choice(ready)
            self._waiting.remove(entry)
            entry[1].set_result(None)
        for _ in range(STEPS_BETWEEN):
            await asyncio.sleep(0)


@dataclass
class Row:
    """One row of the outbox."""

    event: Envelope
    status: str = "NEW"
    retries: int = 0
    hidden: int = 0  # claims that pass it over: its back-off

    @property
    def key(self) -> str:
        return self.event.ordering_key or self.event.aggregate_id


@dataclass
class Database:
    """Committed state; each call of a worker's store is atomic."""

    rows: list[Row] = field(default_factory=list)
    flights: list[Flight] = field(default_factory=list)
    next_sequence: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    leased: bool = False

    def acquire(self) -> Lease | None:
        if self.leased:
            return None
        self.leased, self.epoch = True, self.epoch + 1
        return Lease(lane=0, epoch=self.epoch)

    def release(self, lease: Lease) -> None:
        if lease.epoch == self.epoch:
            self.leased = False

    def turn(self, lease: Lease, turn: Turn) -> Turned:
        if lease.epoch != self.epoch:
            raise LeaseLost("epoch")
        rows = {row.event.id: row for row in self.rows}
        retried = failed = 0
        for flight in [*([turn.settled] if turn.settled else []), *turn.withdrawn]:
            self.flights = [known for known in self.flights if known.ids != flight.ids]
        for event_id in turn.settled.ids if turn.settled else ():
            if event_id not in turn.refused:
                rows[event_id].status = "SENT"
        for event_id, refusal in turn.refused.items():
            row = rows[event_id]
            row.retries, row.hidden = row.retries + 1, 2
            row.status = "ERR" if refusal.permanent or row.retries >= MOST_RETRIES else "NEW"
            failed += row.status == "ERR"
            retried += row.status == "NEW"
        return replace(self._claim(turn), retried=retried, failed=failed) if turn.limit else Turned()

    def _claim(self, turn: Turn) -> Turned:
        flying = {event_id for flight in self.flights for event_id in flight.ids}
        held: set[str] = set()
        found: list[Row] = []
        for row in self.rows:
            if row.status != "NEW" or row.event.id in flying:
                continue
            if row.hidden:
                row.hidden -= 1
                held.add(row.key)
            elif row.key not in held:
                found.append(row)
        if not found:
            return Turned()
        topic = found[0].event.topic or "topic"
        if topic not in turn.floors:
            return Turned(topic=topic)
        first = max(self.next_sequence.get(topic, 1), turn.floors[topic])
        chosen = [row for row in found if (row.event.topic or "topic") == topic][: turn.limit]
        flight = Flight(
            topic=topic,
            first_sequence=first,
            events=[row.event for row in chosen],
            retry_counts={row.event.id: row.retries for row in chosen},
        )
        self.next_sequence[topic] = flight.last_sequence + 1
        self.flights.append(flight)
        return Turned(flight=flight)


@dataclass
class Broker:
    """Deduplicates by the first id of a batch, fences, and refuses batches with a bad event without saying which."""

    topics: dict[str, list[UUID]] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    bad: set[UUID] = field(default_factory=set)

    def open(self, topic: str, worker: str) -> int:
        self.owner[topic] = worker
        return self.highest.get(topic, 0)

    def publish(self, topic: str, worker: str, flight: Flight) -> bool:
        if self.owner[topic] != worker:
            raise LeaseLost("fenced")
        if self.bad.intersection(flight.ids):
            raise FlightRefused(Refusal("bad"))
        if flight.first_sequence <= self.highest.get(topic, 0):
            return False
        self.topics.setdefault(topic, []).extend(flight.ids)
        self.highest[topic] = flight.last_sequence
        return True


class World:
    """Database, broker, scheduler, and the workers on them."""

    def __init__(self, seed: int) -> None:
        self.scheduler = Scheduler(seed)
        self.database = Database()
        self.broker = Broker()
        self.observed = Observed()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.lanes: dict[str, Lane] = {}

    def start_worker(self) -> None:
        name = f"worker-{len(self.tasks)}"
        self.tasks[name] = asyncio.create_task(self._work(name), name=name)

    async def _work(self, name: str) -> None:
        while True:
            lease = await self.database_step(name, self.database.acquire)
            if lease is None:
                continue
            lane = self.lanes[name] = Lane(
                lease=lease,
                store=ModelStore(self, name),
                publisher=ModelPublisher(self, name),
                batch_size=4,
                polling=Polling(),
                observer=self.observed,
                rest=lambda _: self.scheduler.step(name, None, lambda: None),
            )
            with contextlib.suppress(LeaseLost):
                await lane.run()
            # Fenced by a former owner who did not know yet, it is still the owner in the database.
            await self.database_step(name, partial(self.database.release, lease))

    async def database_step(self, worker: str, effect: Callable[[], _T]) -> _T:
        while True:
            try:
                return await self.scheduler.step(worker, _database_outage, effect)
            except DatabaseUnavailable:
                continue


class ModelStore:
    """One worker's way to the database."""

    def __init__(self, world: World, worker: str) -> None:
        self._world = world
        self._worker = worker

    async def open_flights(self, lease: Lease) -> list[Flight]:
        def found() -> list[Flight]:
            if lease.epoch != self._world.database.epoch:
                raise LeaseLost("epoch")
            return [replace(flight, recovered=True) for flight in self._world.database.flights]

        return await self._world.scheduler.step(self._worker, _database_outage, found)

    async def turn(self, lease: Lease, turn: Turn) -> Turned:
        return await self._world.scheduler.step(
            self._worker, _database_outage, lambda: self._world.database.turn(lease, turn)
        )


class ModelPublisher:
    """One worker's way to the broker."""

    def __init__(self, world: World, worker: str) -> None:
        self._world = world
        self._worker = worker
        self._opened = 0

    async def open(self, topic: str) -> Producer:
        self._opened += 1
        connection = f"{self._worker}/{self._opened}"
        last = await self._world.scheduler.step(
            self._worker, _broker_outage, lambda: self._world.broker.open(topic, connection)
        )
        return ModelProducer(self._world, self._worker, connection, last)

    async def close(self) -> None:
        return None


class ModelProducer:
    """One connection of a worker."""

    def __init__(self, world: World, worker: str, connection: str, last_sequence: int) -> None:
        self.last_sequence = last_sequence
        self._world = world
        self._worker = worker
        self._connection = connection

    async def publish(self, flight: Flight) -> bool:
        return await self._world.scheduler.step(
            self._worker,
            _broker_outage,
            lambda: self._world.broker.publish(flight.topic, self._connection, flight),
        )


@dataclass
class Observed:
    """What the lanes told."""

    behind: int = 0
    sent: int = 0

    def turned(self) -> None: ...
    def database_answered(self) -> None: ...
    def database_failed(self, error: DatabaseUnavailable) -> None: ...
    def broker_answered(self) -> None: ...
    def broker_failed(self, error: BusUnavailable) -> None: ...
    def settled(self, *, sent: int, retried: int, failed: int) -> None:
        self.sent += sent

    def counter_behind(self, topic: str) -> None:
        self.behind += 1


def _database_outage() -> Exception:
    return DatabaseUnavailable("the model's", reason="DatabaseUnreachable")


def _broker_outage() -> Exception:
    return BusUnavailable("the model's")
