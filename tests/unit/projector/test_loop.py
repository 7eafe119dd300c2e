"""The loop where there is no database: everything else about it is in integration/test_projector."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import BusUnavailable, InMemoryMessageBus
from outbox_projector import OutboxProjector, Polling
from outbox_projector.bus_lane import BusLanePublisher
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Flight, Lease, NoPartition, Producer, Turn, Turned
from outbox_projector.loop import LaneProjector
from outbox_projector.projector import Unobserved
from outbox_projector.sharing import Fleet
from tests.support.envelopes import envelope
from tests.unit.projector.protocol_model import (
    Broker,
    Database,
    ModelLeases,
    ModelPublisher,
    ModelStore,
    Observed,
    Row,
    lane_of,
)


class Watching(Unobserved):
    """Stops the projector after a number of turns that failed."""

    def __init__(self, turns: int) -> None:
        self.failures: list[DatabaseUnavailable] = []
        self.projector: OutboxProjector | None = None
        self._turns = turns

    def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None:
        self.failures.append(error)
        if len(self.failures) == self._turns:
            assert self.projector is not None
            self.projector.stop()


def no_database() -> AsyncSession:
    raise DatabaseUnavailable("no database", reason="SecretNotFound")


async def test_a_database_that_is_not_there_is_an_outage_that_is_told_and_waited_out(
    memory_bus: InMemoryMessageBus,
) -> None:
    watching = Watching(turns=2)
    watching.projector = OutboxProjector(no_database, memory_bus, "acme", observer=watching)

    await watching.projector.run_forever()

    assert [failure.reason for failure in watching.failures] == ["SecretNotFound"] * 2


class Denied:
    """Leases and store of a database whose role may look and, the first times, not take a lane."""

    def __init__(self, times: int) -> None:
        self._times = times

    async def beat(self) -> Fleet:
        return Fleet(lanes=1, wanted=1)

    async def acquire(self, lane: int, *, seconds: float) -> Lease | None:
        self._times -= 1
        if self._times >= 0:
            raise DatabaseUnavailable("may not update outbox_layout", reason="DatabasePermissionDenied")
        return None

    async def release(self, lease: Lease) -> bool:
        return True

    async def change(self, lanes: int) -> bool:
        return True

    async def leave(self) -> None: ...

    async def open_flights(self, lease: Lease) -> list[Flight]:
        return []

    async def turn(self, lease: Lease, turn: Turn) -> Turned:
        return Turned()


async def test_a_look_that_is_answered_says_nothing_before_a_lane_can_be_taken(memory_bus: InMemoryMessageBus) -> None:
    """A role that may read and not write would be called well, with nothing delivered."""
    told: list[str] = []

    class Listening(Unobserved):
        def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None:
            told.append(error.reason)

        def database_answered(self, lane: int | None = None) -> None:
            told.append("answered")
            projector.stop()

    async def rest(wanted: asyncio.Event, seconds: float) -> None: ...

    database = Denied(times=2)
    projector = LaneProjector(
        leases=database,
        store=database,
        publisher_of=lambda _: BusLanePublisher(memory_bus),
        batch_size=1,
        polling=Polling(),
        observer=Listening(),
        rest=rest,
    )

    await projector.run_forever()

    assert told == ["DatabasePermissionDenied", "DatabasePermissionDenied", "answered"]


async def test_a_refused_connection_is_translated(memory_bus: InMemoryMessageBus) -> None:
    def refused() -> AsyncSession:
        raise ConnectionRefusedError("refused")

    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await OutboxProjector(refused, memory_bus, "acme").drain()


async def test_a_defect_ends_the_loop(memory_bus: InMemoryMessageBus) -> None:
    def defect() -> AsyncSession:
        raise KeyError("a defect of ours")

    with pytest.raises(KeyError):
        await OutboxProjector(defect, memory_bus, "acme").run_forever()


async def test_stop_before_the_start_ends_it_at_once(memory_bus: InMemoryMessageBus) -> None:
    projector = OutboxProjector(no_database, memory_bus, "acme")
    projector.stop()

    await projector.run_forever()


async def test_stop_interrupts_the_pause_of_an_outage(memory_bus: InMemoryMessageBus) -> None:
    watching = Watching(turns=1_000_000)
    projector = OutboxProjector(no_database, memory_bus, "acme", observer=watching)
    running = asyncio.create_task(projector.run_forever())
    await asyncio.wait([running], timeout=0)
    projector.stop()

    await running

    assert len(watching.failures) == 1


def test_a_batch_has_at_least_one_row(memory_bus: InMemoryMessageBus) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        OutboxProjector(no_database, memory_bus, "acme", 0)


class Fewer:
    """Four lanes, each with a flight that its owner left open, which are to become one; the broker has lane 0 only."""

    def __init__(self) -> None:
        keys = [f"key-{number}" for number in range(40)]
        first_of_lane = {lane_of(key, 4): key for key in reversed(keys)}
        self.database = Database([Row(envelope(aggregate_id=key)) for key in first_of_lane.values()])
        self.database.beat("before", 4)
        for lane in range(4):
            lease = self.database.acquire("before", lane)
            assert lease is not None
            self.database.turn(lease, Turn(limit=1, floors={"topic": 1}))
            self.database.release(lease)
        self.database.leave("before")
        self.broker = Broker()
        self.observed = Observed()
        self.trouble: dict[int, BusUnavailable] = {lane: NoPartition("no partition") for lane in (1, 2, 3)}
        self.projector = LaneProjector(
            leases=ModelLeases(self.database, at_once, "now", 1),
            store=ModelStore(self.database, at_once),
            publisher_of=lambda lease: Publisher(self, lease),
            batch_size=4,
            polling=Polling(),
            observer=self.observed,
        )


class Publisher(ModelPublisher):
    def __init__(self, fewer: Fewer, lease: Lease) -> None:
        super().__init__(fewer.broker, at_once, "now", lease.lane)
        self._trouble = fewer.trouble.get(lease.lane)

    async def open(self, topic: str) -> Producer:
        if self._trouble:
            raise self._trouble
        return await super().open(topic)


async def at_once(_outage: Callable[[], Exception], effect: Callable[[], Any]) -> Any:
    """A step of the model without troubles."""
    return effect()


async def test_lanes_become_fewer_although_there_is_no_partition_any_more_for_their_flights() -> None:
    """Nothing would be published again otherwise, until somebody adds partitions that nobody wants."""
    fewer = Fewer()
    of_lane = {lane_of(row.key, 4): row.event.id for row in fewer.database.rows}

    await fewer.projector.drain()

    assert fewer.database.lanes == 1
    assert {row.status for row in fewer.database.rows} == {"SENT"}
    assert sorted(fewer.broker.log) == sorted(of_lane.values())
    assert fewer.observed.perhaps_doubled == [of_lane[lane] for lane in (1, 2, 3)]


async def test_a_lane_that_cannot_land_does_not_keep_the_others_from_it() -> None:
    fewer = Fewer()
    fewer.trouble = {1: BusUnavailable("away")}

    with pytest.raises(BusUnavailable, match="away"):
        await fewer.projector.drain()

    assert fewer.database.flying == [1]
