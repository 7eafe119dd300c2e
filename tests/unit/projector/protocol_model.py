"""A model of database and broker, and a scheduler that decides at every await who goes on, who stops, and what fails.

The workers are the real code, the loop that shares lanes and the lanes themselves. Everything they await is a *step* of
the model: a future that the scheduler completes, now or later, with an error before or after its effect, or never
(kill -9, or a pause that may end after a takeover).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID
from zlib import crc32

from bento_outbox import BusUnavailable, Envelope, Refusal
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Flight, FlightRefused, Lease, LeaseLost, Producer, Turn, Turned
from outbox_projector.loop import LaneProjector
from outbox_projector.policies import Polling
from outbox_projector.sharing import Fleet

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
class Owner:
    """Who has a lane, or had it last."""

    name: str | None = None
    epoch: int = 0
    expired: bool = False


@dataclass
class Member:
    """A worker that shares the lanes. is_quiet: nothing was heard of it for a while."""

    number: int
    wanted: int
    is_quiet: bool = False


@dataclass
class Database:
    """Committed state; each call of a worker's store is atomic."""

    rows: list[Row] = field(default_factory=list)
    flights: dict[int, list[Flight]] = field(default_factory=lambda: defaultdict(list))
    next_sequence: dict[tuple[int, str], int] = field(default_factory=dict)
    lanes: int | None = None
    owners: dict[int, Owner] = field(default_factory=lambda: defaultdict(Owner))
    members: dict[str, Member] = field(default_factory=dict)
    ordered: bool = True
    hold_aggregates: bool = False
    by_key: bool = False

    def beat(self, name: str, wanted: int) -> Fleet:
        me = self.members.setdefault(name, Member(len(self.members), wanted))
        me.is_quiet = False
        self.lanes = self.lanes or wanted
        counted = sorted((member for member in self.members.values() if not member.is_quiet), key=lambda m: m.number)
        others = {lane: owner for lane, owner in self.owners.items() if owner.name not in (None, name)}
        return Fleet(
            lanes=self.lanes,
            wanted=counted[-1].wanted,
            members=len(counted),
            rank=counted.index(me),
            taken=[lane for lane, owner in others.items() if not owner.expired],
            expired=[lane for lane, owner in others.items() if owner.expired],
            flying=self.flying,
        )

    @property
    def flying(self) -> list[int]:
        return [lane for lane, flights in self.flights.items() if flights]

    def acquire(self, name: str, lane: int) -> Lease | None:
        owner = self.owners[lane]
        assert self.lanes is not None
        if lane >= self.lanes or not (owner.name in (None, name) or owner.expired):
            return None
        owner.name, owner.epoch, owner.expired = name, owner.epoch + 1, False
        return Lease(lane=lane, lanes=self.lanes, epoch=owner.epoch)

    def release(self, lease: Lease) -> bool:
        if lease.epoch != self.owners[lease.lane].epoch:
            return False
        self.owners[lease.lane].name = None
        return True

    def change(self, lanes: int) -> bool:
        if self.flying:
            return False
        for owner in self.owners.values():
            owner.name, owner.epoch = None, owner.epoch + 1
        self.lanes = lanes
        return True

    def leave(self, name: str) -> None:
        if name in self.members:
            self.members[name].is_quiet = True

    def open_flights(self, lease: Lease) -> list[Flight]:
        self._hold(lease)
        return [replace(flight, recovered=True) for flight in self.flights[lease.lane]]

    def turn(self, lease: Lease, turn: Turn) -> Turned:
        self._hold(lease)
        rows = {row.event.id: row for row in self.rows}
        retried = failed = 0
        over = [flight.ids for flight in [*([turn.settled] if turn.settled else []), *turn.withdrawn]]
        self.flights[lease.lane] = [flight for flight in self.flights[lease.lane] if flight.ids not in over]
        for event_id in turn.settled.ids if turn.settled else ():
            if event_id not in turn.refused:
                rows[event_id].status = "SENT"
        for event_id, refusal in turn.refused.items():
            row = rows[event_id]
            row.retries, row.hidden = row.retries + 1, 2
            row.status = "ERR" if refusal.permanent or row.retries >= MOST_RETRIES else "NEW"
            failed += row.status == "ERR"
            retried += row.status == "NEW"
        return replace(self._claim(lease, turn), retried=retried, failed=failed) if turn.limit else Turned()

    def _hold(self, lease: Lease) -> None:
        owner = self.owners[lease.lane]
        if lease.epoch != owner.epoch:
            raise LeaseLost("epoch")
        owner.expired = False

    def _claim(self, lease: Lease, turn: Turn) -> Turned:
        flying = {event_id for flight in self.flights[lease.lane] for event_id in flight.ids}
        held: set[str] = set()
        found: list[Row] = []
        for row in self.rows:
            if lane_of(row.key, lease.lanes) != lease.lane or row.event.id in flying:
                continue
            if row.status == "ERR" and self.hold_aggregates:
                held.add(row.key)
            if row.status != "NEW":
                continue
            if row.hidden:
                row.hidden -= 1
                held.add(row.key)
            elif row.key not in held or not self.ordered:
                found.append(row)
        if not found:
            return Turned()
        topic = found[0].event.topic or "topic"
        if topic not in turn.floors:
            return Turned(topic=topic)
        first = max(self.next_sequence.get((lease.lane, topic), 1), turn.floors[topic])
        chosen = [row for row in found if (row.event.topic or "topic") == topic][: turn.limit]
        flight = Flight(
            topic=topic,
            first_sequence=first,
            events=[row.event for row in chosen],
            retry_counts={row.event.id: row.retries for row in chosen},
            by_key=self.by_key,
        )
        self.next_sequence[lease.lane, topic] = flight.last_sequence + 1
        self.flights[lease.lane].append(flight)
        return Turned(flight=flight, more=len(chosen) < len(found))


def lane_of(key: str, lanes: int) -> int:
    """Which of so many lanes has the rows of a key."""
    return crc32(key.encode()) % lanes


@dataclass
class Broker:
    """Deduplicates by the first id of a batch, fences, and refuses batches with a bad event without saying which.

    A place is a topic and a lane: the lane's partition.
    """

    stored: dict[tuple[str, int], list[UUID]] = field(default_factory=lambda: defaultdict(list))
    log: list[UUID] = field(default_factory=list)
    highest: dict[tuple[str, int], int] = field(default_factory=dict)
    owner: dict[tuple[str, int], str] = field(default_factory=dict)
    bad: set[UUID] = field(default_factory=set)

    @property
    def topics(self) -> dict[str, list[UUID]]:
        """What each topic holds, in the order in which it came."""
        topics: dict[str, list[UUID]] = defaultdict(list)
        for (topic, _), ids in self.stored.items():
            topics[topic] += ids
        return {topic: sorted(ids, key=self.log.index) for topic, ids in topics.items()}

    def open(self, place: tuple[str, int], connection: str) -> int:
        self.owner[place] = connection
        return self.highest.get(place, 0)

    def publish(self, place: tuple[str, int], connection: str, flight: Flight) -> bool:
        if self.owner[place] != connection:
            raise LeaseLost("fenced")
        if self.bad.intersection(flight.ids):
            raise FlightRefused(Refusal("bad"))
        if flight.first_sequence <= self.highest.get(place, 0):
            return False
        self.store(place, flight)
        return True

    def store(self, place: tuple[str, int], flight: Flight) -> None:
        self.stored[place].extend(flight.ids)
        self.log.extend(flight.ids)
        self.highest[place] = flight.first_sequence


class World:
    """Database, broker, scheduler, and the workers on them."""

    def __init__(self, seed: int) -> None:
        self.scheduler = Scheduler(seed)
        self.database = Database()
        self.broker = Broker()
        self.observed = Observed()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.projectors: dict[str, LaneProjector] = {}

    def start_worker(self, lanes: int = 1) -> None:
        name = f"worker-{len(self.tasks)}"
        database, step = self.database, partial(self.scheduler.step, name)

        async def rest(_wanted: asyncio.Event, _seconds: float) -> None:
            await step(None, lambda: None)

        projector = self.projectors[name] = LaneProjector(
            leases=ModelLeases(database, step, name, lanes),
            store=ModelStore(database, step),
            publisher_of=lambda lease: ModelPublisher(self.broker, step, name, lease.lane),
            batch_size=4,
            polling=Polling(),
            observer=self.observed,
            rest=rest,
        )
        self.tasks[name] = asyncio.create_task(projector.run_forever(), name=name)


class ModelLeases:
    """One worker's way to the lanes' owners."""

    def __init__(self, database: Database, step: Any, name: str, lanes: int) -> None:
        self._database = database
        self._step = partial(step, _database_outage)
        self._name = name
        self._lanes = lanes

    async def beat(self) -> Fleet | None:
        fleet: Fleet = await self._step(lambda: self._database.beat(self._name, self._lanes))
        return fleet

    async def acquire(self, lane: int, *, seconds: float) -> Lease | None:
        lease: Lease | None = await self._step(lambda: self._database.acquire(self._name, lane))
        return lease

    async def release(self, lease: Lease) -> bool:
        was_ours: bool = await self._step(lambda: self._database.release(lease))
        return was_ours

    async def change(self, lanes: int) -> bool:
        changed: bool = await self._step(lambda: self._database.change(lanes))
        return changed

    async def leave(self) -> None:
        await self._step(lambda: self._database.leave(self._name))


class ModelStore:
    """One worker's way to the rows."""

    def __init__(self, database: Database, step: Any) -> None:
        self._database = database
        self._step = partial(step, _database_outage)

    async def open_flights(self, lease: Lease) -> list[Flight]:
        flights: list[Flight] = await self._step(lambda: self._database.open_flights(lease))
        return flights

    async def turn(self, lease: Lease, turn: Turn) -> Turned:
        turned: Turned = await self._step(lambda: self._database.turn(lease, turn))
        return turned


class ModelPublisher:
    """One worker's way to the broker, for one lane."""

    opened = itertools.count()

    def __init__(self, broker: Broker, step: Any, worker: str, lane: int) -> None:
        self._broker = broker
        self._step = partial(step, _broker_outage)
        self._worker = worker
        self._lane = lane

    async def open(self, topic: str) -> Producer:
        place, connection = (topic, self._lane), f"{self._worker}/{next(self.opened)}"
        last: int = await self._step(lambda: self._broker.open(place, connection))
        return ModelProducer(self._step, partial(self._broker.publish, place, connection), last)

    async def close(self) -> None:
        return None


class ModelProducer:
    """One connection of a worker."""

    def __init__(self, step: Any, publish: Callable[[Flight], bool], last_sequence: int) -> None:
        self.last_sequence = last_sequence
        self._step = step
        self._publish = publish

    async def publish(self, flight: Flight) -> bool:
        """Entry by entry, between any two of which it may all end."""
        stored = [await self._step(partial(self._publish, entry)) for entry in entries(flight)]
        return all(stored)


def entries(flight: Flight) -> list[Flight]:
    """What the broker stores at once: all of it, or the rows of one key, under the id of the first of them."""
    if not flight.by_key:
        return [flight]
    places: dict[str, list[int]] = defaultdict(list)
    for place, event in enumerate(flight.events):
        places[event.aggregate_id].append(place)
    return [
        replace(flight, first_sequence=flight.first_sequence + of_key[0], events=[flight.events[n] for n in of_key])
        for of_key in places.values()
    ]


@dataclass
class Observed:
    """What the lanes told."""

    behind: int = 0
    sent: int = 0
    perhaps_doubled: list[UUID] = field(default_factory=list)
    broker_heard: list[bool] = field(default_factory=list)

    def turned(self) -> None: ...
    def database_answered(self, lane: int | None = None) -> None: ...
    def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None: ...
    def broker_answered(self, lane: int | None = None) -> None:
        self.broker_heard.append(True)

    def broker_failed(self, error: BusUnavailable, lane: int | None = None) -> None:
        self.broker_heard.append(False)

    def lane_ended(self, lane: int) -> None: ...
    def settled(self, *, sent: int, retried: int, failed: int) -> None:
        self.sent += sent

    def counter_behind(self, topic: str) -> None:
        self.behind += 1

    def given_up(self, flight: Flight) -> None:
        self.perhaps_doubled += flight.ids


def _database_outage() -> Exception:
    return DatabaseUnavailable("the model's", reason="DatabaseUnreachable")


def _broker_outage() -> Exception:
    return BusUnavailable("the model's")
