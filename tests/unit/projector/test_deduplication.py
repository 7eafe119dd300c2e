"""What a lane's publisher concludes from what the broker remembers."""

from __future__ import annotations

import pytest

from bento_outbox import BusUnavailable
from outbox_projector.deduplication import LOOK_SECONDS, WatchedPublisher
from outbox_projector.flights import Flight, Producer
from tests.support.clocks import Clock
from tests.support.deduplication import Seen
from tests.support.envelopes import envelope


class Broker:
    """A broker of one topic, and the publisher to it."""

    def __init__(self, *, remembers: int = 0, deduplicates: bool = True) -> None:
        self.remembers = remembers
        self.deduplicates = deduplicates
        self.is_away = False
        self.opened = 0

    async def open(self, topic: str) -> Producer:
        if self.is_away:
            raise BusUnavailable("away")
        self.opened += 1
        return Connection(self, self.remembers)

    async def close(self) -> None: ...


class Connection:
    def __init__(self, broker: Broker, last_sequence: int) -> None:
        self.last_sequence = last_sequence
        self._broker = broker

    async def publish(self, flight: Flight) -> bool:
        if flight.first_sequence <= self._broker.remembers:
            return False
        if self._broker.deduplicates:
            self._broker.remembers = flight.last_sequence
        return True


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def flight(first_sequence: int, *, recovered: bool = False) -> Flight:
    events = [envelope(), envelope()]
    return Flight(topic="topic", first_sequence=first_sequence, events=events, retry_counts={}, recovered=recovered)


@pytest.mark.parametrize("deduplicates", [True, False])
async def test_the_first_flight_shows_whether_the_broker_deduplicates(seen: Seen, deduplicates: bool) -> None:
    producer = await WatchedPublisher(Broker(deduplicates=deduplicates), seen).open("topic")

    assert await producer.publish(flight(1))

    assert (seen.looks, seen.forgotten) == ([deduplicates], [])


async def test_later_flights_look_now_and_then(seen: Seen, clock: Clock) -> None:
    broker = Broker()
    producer = await WatchedPublisher(broker, seen, clock=clock).open("topic")
    for first in (1, 3, 5):
        await producer.publish(flight(first))
    assert seen.looks == [True]

    clock.now += LOOK_SECONDS
    broker.deduplicates = False
    await producer.publish(flight(7))

    assert seen.looks == [True, False]
    assert broker.opened == 3


async def test_floors_come_from_the_newest_connection(seen: Seen) -> None:
    producer = await WatchedPublisher(Broker(remembers=10), seen).open("topic")
    assert producer.last_sequence == 10

    await producer.publish(flight(11))

    assert producer.last_sequence == 12


async def test_what_the_broker_had_already_says_nothing_new(seen: Seen) -> None:
    producer = await WatchedPublisher(Broker(remembers=2), seen).open("topic")

    assert not await producer.publish(flight(1, recovered=True))

    assert (seen.looks, seen.forgotten) == ([], [])


@pytest.mark.parametrize(("recovered", "perhaps_doubled"), [(True, 2), (False, 0)])
async def test_a_broker_that_forgot_us_is_told_of(seen: Seen, recovered: bool, perhaps_doubled: int) -> None:
    producer = await WatchedPublisher(Broker(), seen).open("topic")

    assert await producer.publish(flight(101, recovered=recovered))
    assert await producer.publish(flight(103))

    assert seen.forgotten == [perhaps_doubled]
    assert seen.looks == [True]


async def test_a_flight_that_is_stored_is_stored_although_the_look_fails(seen: Seen) -> None:
    broker = Broker()
    producer = await WatchedPublisher(broker, seen).open("topic")
    broker.is_away = True

    assert await producer.publish(flight(1))

    broker.is_away = False
    assert await producer.publish(flight(3))
    assert seen.looks == [True]
