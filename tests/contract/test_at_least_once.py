"""At least once on the real broker: a flight is one batch where that can be, and its topic is nobody's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from bento_outbox import BusUnavailable, Envelope
from bento_outbox.pulsar_bus import PulsarMessageBus
from outbox_projector.at_least_once import AtLeastOnce
from outbox_projector.bus_lane import BusLanePublisher
from outbox_projector.flights import Flight
from outbox_projector.pulsar_lane import PulsarLanePublisher
from tests.support.envelopes import envelope
from tests.support.pulsar_topics import Namespaces, Topics

NewPublisher = Callable[[], AtLeastOnce]


class CountingBus(PulsarMessageBus):
    """Counts what is published message by message."""

    published = 0

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        self.published += 1
        await super().publish(events)


@pytest.fixture
def topic(own_namespace: str) -> str:
    return f"persistent://{own_namespace}/events"


@pytest.fixture
async def bus(pulsar_url: str, topic: str) -> AsyncIterator[CountingBus]:
    bus = CountingBus(pulsar_url, topic=topic)
    yield bus
    await bus.close()


@pytest.fixture
async def new_publisher(pulsar_url: str, bus: CountingBus, topic: str) -> AsyncIterator[NewPublisher]:
    """Of a lane, as another process would make it."""
    made: list[AtLeastOnce] = []

    def make() -> AtLeastOnce:
        batches = PulsarLanePublisher(pulsar_url, producer_name=None, configured_topic=topic)
        made.append(AtLeastOnce(batches, BusLanePublisher(bus)))
        return made[-1]

    yield make
    for publisher in made:
        await publisher.close()


def flight(topic: str, events: Sequence[Envelope], first_sequence: int = 1) -> Flight:
    return Flight(topic=topic, first_sequence=first_sequence, events=events, retry_counts={})


def events(count: int) -> list[Envelope]:
    return [envelope(aggregate_id=f"order-{number % 3}") for number in range(count)]


def ids(sent: Sequence[Envelope]) -> list[str]:
    return [str(event.id) for event in sent]


async def test_a_flight_is_one_batch(new_publisher: NewPublisher, topic: str, topics: Topics, bus: CountingBus) -> None:
    producer, sent = await new_publisher().open(topic), events(500)
    assert await producer.publish(flight(topic, sent))

    received = await topics.exactly(500, topic)
    assert [message.event_id for message in received] == ids(sent)
    assert {message.entry for message in received} == {received[0].entry}
    assert bus.published == 0


async def test_several_lanes_share_a_topic_and_none_ends_another(
    new_publisher: NewPublisher, topic: str, topics: Topics
) -> None:
    first, second = await new_publisher().open(topic), await new_publisher().open(topic)
    for producer in (first, second, first):
        assert await producer.publish(flight(topic, events(10)))
    assert len(await topics.exactly(30, topic)) == 30


async def test_where_the_broker_deduplicates_the_ids_of_another_lane_are_not_ours(
    new_publisher: NewPublisher, own_namespace: str, namespaces: Namespaces, topic: str, topics: Topics
) -> None:
    await namespaces.set(own_namespace, "deduplication", True)
    for _ in range(2):
        producer = await new_publisher().open(topic)
        assert producer.last_sequence == 0
        assert await producer.publish(flight(topic, events(10)))
    assert len(await topics.exactly(20, topic)) == 20


@pytest.mark.parametrize("partitions", [1, 3])
async def test_over_partitions_it_goes_message_by_message(
    new_publisher: NewPublisher, topic: str, topics: Topics, namespaces: Namespaces, bus: CountingBus, partitions: int
) -> None:
    await namespaces.partition(topic, partitions)
    producer, sent = await new_publisher().open(topic), events(30)
    assert await producer.publish(flight(topic, sent))

    assert bus.published == 1
    received = await topics.exactly(30, topic)
    for key in ("order-0", "order-1", "order-2"):
        own = [str(event.id) for event in sent if event.aggregate_id == key]
        assert [message.event_id for message in received if message.key == key] == own


async def test_a_single_partition_is_a_topic_of_its_own(
    new_publisher: NewPublisher, topic: str, topics: Topics, namespaces: Namespaces
) -> None:
    await namespaces.partition(topic, 2)
    partition = f"{topic}-partition-1"
    producer = await new_publisher().open(partition)
    assert await producer.publish(flight(partition, events(5)))
    assert len(await topics.exactly(5, partition)) == 5


async def test_a_topic_that_somebody_keeps_for_himself_is_an_outage(
    new_publisher: NewPublisher, pulsar_url: str, topic: str
) -> None:
    """And no lost lane: nobody else has a lane of ours."""
    owner = PulsarLanePublisher(pulsar_url, producer_name="lane-0")
    await owner.open(topic)
    try:
        with pytest.raises(BusUnavailable, match=r"exclusive, .* ExactlyOnce"):
            await new_publisher().open(topic)
    finally:
        await owner.close()
