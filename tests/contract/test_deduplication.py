"""Whether the broker deduplicates, seen on the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bento_outbox import BusUnavailable
from outbox_projector.deduplication import WatchedPublisher
from outbox_projector.flights import Flight, Producer
from outbox_projector.pulsar_lane import PulsarLanePublisher
from tests.support.clocks import Clock
from tests.support.deduplication import Seen
from tests.support.envelopes import envelope
from tests.support.pulsar_topics import Namespaces, Topics
from tests.support.waiting import eventually


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def publisher(pulsar_url: str, seen: Seen, clock: Clock) -> AsyncIterator[WatchedPublisher]:
    watched = WatchedPublisher(PulsarLanePublisher(pulsar_url, producer_name="lane-0"), seen, clock=clock)
    yield watched
    await watched.close()


def flight(topic: str, first_sequence: int) -> Flight:
    return Flight(topic=topic, first_sequence=first_sequence, events=[envelope(), envelope()], retry_counts={})


async def _opened(publisher: WatchedPublisher, topic: str) -> Producer:
    """As the lane does, to which it is an outage that a former connection of its own is not quite closed yet."""

    async def look() -> Producer | None:
        try:
            return await publisher.open(topic)
        except BusUnavailable:
            return None

    producer: Producer = await eventually(look)
    return producer


@pytest.mark.parametrize("deduplicates", [True, False])
async def test_the_first_flight_tells(
    publisher: WatchedPublisher,
    seen: Seen,
    own_namespace: str,
    namespaces: Namespaces,
    topics: Topics,
    deduplicates: bool,
) -> None:
    await namespaces.set(own_namespace, "deduplication", deduplicates)
    topic = f"persistent://{own_namespace}/events"
    producer = await publisher.open(topic)

    for first in (1, 3, 5):
        assert await producer.publish(flight(topic, first))

    assert seen.looks == [deduplicates]
    assert len(await topics.exactly(6, topic)) == 6


async def test_it_is_noticed_when_somebody_switches_it_off(
    publisher: WatchedPublisher, seen: Seen, clock: Clock, own_namespace: str, namespaces: Namespaces
) -> None:
    await namespaces.set(own_namespace, "deduplication", True)
    topic = f"persistent://{own_namespace}/events"
    producer = await publisher.open(topic)
    assert await producer.publish(flight(topic, 1))
    await namespaces.set(own_namespace, "deduplication", False)
    first = 1

    async def noticed() -> bool:
        nonlocal first
        first += 2
        clock.now += 1_000
        await producer.publish(flight(topic, first))
        return seen.looks[-1] is False

    await eventually(noticed)
    assert seen.looks[0] is True


async def test_a_topic_that_was_made_anew_has_forgotten_us(
    publisher: WatchedPublisher, seen: Seen, own_namespace: str, namespaces: Namespaces, topics: Topics
) -> None:
    await namespaces.set(own_namespace, "deduplication", True)
    topic = f"persistent://{own_namespace}/events"
    producer = await publisher.open(topic)
    assert await producer.publish(flight(topic, 1))
    await namespaces.delete_topic(topic)

    producer = await _opened(publisher, topic)
    assert await producer.publish(flight(topic, 3))

    assert seen.forgotten == [0]
    assert seen.looks == [True, True]
    assert len(await topics.exactly(2, topic)) == 2
