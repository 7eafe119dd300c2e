"""What a projector asks of the database while nothing happens, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bento_outbox import InMemoryMessageBus
from outbox_projector.bus_lane import BusLanePublisher
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Flight, Lease, Turn, Turned
from outbox_projector.loop import LOOK_SECONDS, WARY_LOOKS, LaneProjector
from outbox_projector.policies import Polling
from outbox_projector.projector import Unobserved
from outbox_projector.sharing import Fleet

LANES = 3
IDLE = Fleet(lanes=LANES, wanted=LANES, waiting=False)
POLLING = Polling(fastest_seconds=0.5, slowest_seconds=1.0, quiet_seconds=20.0)


class Time:
    """Passes when it is told to."""

    def __init__(self) -> None:
        self._now = 0.0
        self._resting: list[tuple[float, asyncio.Event]] = []

    async def rest(self, wanted: asyncio.Event, seconds: float) -> None:
        over = asyncio.Event()
        self._resting.append((self._now + seconds, over))
        waits = [asyncio.ensure_future(wanted.wait()), asyncio.ensure_future(over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def passes(self, seconds: float) -> None:
        end = self._now + seconds
        await self._all_have_gone_on()
        while due := sorted((at, id(over), over) for at, over in self._resting if at <= end):
            at, _, over = due[0]
            self._now = at
            self._resting.remove((at, over))
            over.set()
            await self._all_have_gone_on()
        self._now = end

    async def _all_have_gone_on(self) -> None:
        for _ in range(50):
            await asyncio.sleep(0)


class Database:
    """Leases and store of a tenant, which count what is asked."""

    def __init__(self) -> None:
        self.fleet: Fleet | None = IDLE
        self.looks = 0
        self.turns = 0
        self.may_write = True

    def asked(self) -> tuple[int, int]:
        """Looks and turns since the last time."""
        asked, self.looks, self.turns = (self.looks, self.turns), 0, 0
        return asked

    async def beat(self) -> Fleet:
        self.looks += 1
        if self.fleet is None:
            raise DatabaseUnavailable("no database", reason="DatabaseUnreachable")
        return self.fleet

    async def acquire(self, lane: int, *, seconds: float) -> Lease:
        return Lease(lane=lane, lanes=LANES, epoch=1)

    async def release(self, lease: Lease) -> bool:
        return True

    async def change(self, lanes: int) -> bool:
        return False

    async def leave(self) -> None: ...

    async def open_flights(self, lease: Lease) -> list[Flight]:
        return []

    async def turn(self, lease: Lease, turn: Turn) -> Turned:
        self.turns += 1
        if not self.may_write:
            raise DatabaseUnavailable("may not write", reason="DatabasePermissionDenied")
        return Turned()


class Tenant:
    """A projector that runs, and all that is around it."""

    def __init__(self) -> None:
        self.time = Time()
        self.database = Database()
        self.listening = True
        self.projector = LaneProjector(
            leases=self.database,
            store=self.database,
            publisher_of=lambda _: BusLanePublisher(InMemoryMessageBus()),
            batch_size=10,
            polling=POLLING,
            observer=Unobserved(),
            listening=lambda: self.listening,
            rest=self.time.rest,
        )


@asynccontextmanager
async def running(tenant: Tenant) -> AsyncIterator[None]:
    task = asyncio.create_task(tenant.projector.run_forever())
    await tenant.time.passes(60)
    tenant.database.asked()
    yield
    tenant.projector.stop()
    await task


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    """It has been idle for a while."""
    tenant = Tenant()
    async with running(tenant):
        yield tenant


async def test_while_nothing_waits_one_look_in_a_while_is_all(tenant: Tenant) -> None:
    await tenant.time.passes(60)

    assert tenant.projector.is_quiet
    assert tenant.database.asked() == (3, 0)


async def test_once_woken_every_lane_asks_at_once_and_is_quiet_again_when_nothing_waits(tenant: Tenant) -> None:
    tenant.projector.wake()
    await tenant.time.passes(0)
    assert tenant.database.asked() == (1, LANES)

    await tenant.time.passes(60)
    assert tenant.database.asked() == (3, 0)


async def test_looks_do_not_follow_wakes_at_any_rate(tenant: Tenant) -> None:
    for _ in range(600):
        tenant.projector.wake()
        await tenant.time.passes(0.1)

    looks, turns = tenant.database.asked()
    assert looks == 20
    assert turns >= 600


@pytest.mark.parametrize(
    "fleet",
    [
        pytest.param(replace(IDLE, waiting=True), id="an event waits"),
        pytest.param(replace(IDLE, members=2), id="another process shares"),
        pytest.param(replace(IDLE, taken=[2]), id="somebody owns a lane, perhaps not any more"),
        pytest.param(replace(IDLE, wanted=LANES + 1, flying=[0]), id="the number of lanes changes"),
        pytest.param(None, id="no database"),
    ],
)
async def test_what_ends_the_quiet_is_found_by_the_look(tenant: Tenant, fleet: Fleet | None) -> None:
    tenant.database.fleet = fleet
    await tenant.time.passes(20)
    assert not tenant.projector.is_quiet
    tenant.database.asked()

    await tenant.time.passes(30)
    looks, _ = tenant.database.asked()
    assert looks >= 3


async def test_a_lane_that_got_nowhere_is_not_left_alone_before_it_has(tenant: Tenant) -> None:
    """Else the trouble would be told for as long as nothing comes."""
    tenant.database.may_write = False
    tenant.projector.wake()
    await tenant.time.passes(60)
    assert not tenant.projector.is_quiet

    tenant.database.may_write = True
    await tenant.time.passes(30)
    assert tenant.projector.is_quiet


async def test_an_event_found_by_the_look_is_asked_for_at_once(tenant: Tenant) -> None:
    tenant.database.fleet = replace(IDLE, waiting=True)
    while not tenant.database.looks:
        await tenant.time.passes(1)

    assert tenant.database.asked() == (1, LANES)


async def test_a_writer_that_does_not_notify_is_polled_for_from_then_on_but_not_for_ever(tenant: Tenant) -> None:
    tenant.database.fleet = replace(IDLE, waiting=True)
    await tenant.time.passes(20)
    tenant.database.fleet = IDLE

    await tenant.time.passes(LOOK_SECONDS * (WARY_LOOKS - 10))
    assert not tenant.projector.is_quiet

    await tenant.time.passes(LOOK_SECONDS * 20)
    assert tenant.projector.is_quiet


async def test_a_writer_that_notifies_is_waited_for_in_quiet(tenant: Tenant) -> None:
    tenant.database.fleet = replace(IDLE, waiting=True)
    tenant.projector.wake()
    await tenant.time.passes(1)
    tenant.database.fleet = IDLE

    await tenant.time.passes(60)
    assert tenant.projector.is_quiet


async def test_one_that_does_not_listen_polls(tenant: Tenant) -> None:
    tenant.listening = False
    tenant.projector.wake()  # the listener does, when it has lost its connection
    await tenant.time.passes(5)
    tenant.database.asked()

    await tenant.time.passes(60)
    assert tenant.database.asked() == (20, 60 * LANES)


async def test_a_stop_ends_the_quiet(tenant: Tenant) -> None:
    tenant.projector.stop()  # the fixture waits for its end
