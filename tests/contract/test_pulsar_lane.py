"""What the protocol of a lane relies on, on the real broker: one entry a flight, deduplication, fencing, refusals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pulsar
import pytest

from bento_outbox import BusUnavailable, Envelope
from bento_outbox.message_form import message_of
from outbox_projector.flights import Flight, FlightRefused, LeaseLost, NoPartition
from outbox_projector.pulsar_lane import PulsarLaneProducer, PulsarLanePublisher
from tests.support.cut_connection import Relay
from tests.support.envelopes import envelope
from tests.support.pulsar_topics import Namespaces, Topics

NewPublisher = Callable[..., PulsarLanePublisher]


@pytest.fixture
async def new_publisher(pulsar_url: str) -> AsyncIterator[NewPublisher]:
    """Makes a publisher of the same lane, as another process would."""
    made: list[PulsarLanePublisher] = []

    def make(**options: Any) -> PulsarLanePublisher:
        usual: dict[str, Any] = {"producer_name": "lane-0", "timeout_seconds": 10}
        made.append(PulsarLanePublisher(pulsar_url, **(usual | options)))
        return made[-1]

    yield make
    for publisher in made:
        await publisher.close()


@pytest.fixture
async def deduplicated(own_namespace: str, namespaces: Namespaces) -> str:
    """A topic in a namespace where the broker deduplicates."""
    await namespaces.set(own_namespace, "deduplication", True)
    return f"persistent://{own_namespace}/events"


def flight(topic: str, events: Sequence[Envelope], first_sequence: int = 1, **how: bool) -> Flight:
    return Flight(topic=topic, first_sequence=first_sequence, events=events, retry_counts={}, **how)


def events(count: int) -> list[Envelope]:
    return [envelope(aggregate_id=f"order-{number % 3}") for number in range(count)]


def of_keys(keys: str) -> list[Envelope]:
    return [envelope(aggregate_id=key) for key in keys]


def by_key(sent: Sequence[Envelope]) -> list[str]:
    """The ids in the order in which they are stored: key by key, in the order of the keys' first events."""
    order = list(dict.fromkeys(event.aggregate_id for event in sent))
    return [str(event.id) for event in sorted(sent, key=lambda event: order.index(event.aggregate_id))]


async def opened(publisher: PulsarLanePublisher, topic: str) -> PulsarLaneProducer:
    """As the lane does, to which it is an outage that a former connection of its own is not quite closed yet."""
    for _ in range(200):
        with contextlib.suppress(BusUnavailable):
            return await publisher.open(topic)
    raise AssertionError("the former producer is still there")


async def ids_on(topics: Topics, topic: str, count: int) -> list[str]:
    return [message.event_id for message in await topics.exactly(count, topic)]


async def test_a_flight_arrives_in_order_with_key_payload_and_properties(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    sent = [
        envelope(aggregate_id="order-1", created_at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)),
        envelope(aggregate_id="order-2", ordering_key="customer-7", headers={"traceparent": "00-1"}),
    ]
    producer = await new_publisher().open(deduplicated)

    assert await producer.publish(flight(deduplicated, sent))

    first, second = await topics.exactly(2, deduplicated)
    assert [first.event_id, second.event_id] == [str(event.id) for event in sent]
    assert (first.key, second.key) == ("order-1", "customer-7")
    assert (first.payload, first.event_time, second.event_time) == (sent[0].payload, 1767323045678, 0)
    assert [first.properties, second.properties] == [message_of(event).properties for event in sent]


async def test_a_flight_that_is_sent_again_by_a_later_owner_is_stored_once(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    first, second = events(500), events(500)
    producer = await new_publisher().open(deduplicated)
    assert producer.last_sequence == 0
    assert await producer.publish(flight(deduplicated, first, 1))

    successor = await new_publisher().open(deduplicated)

    assert 1 <= successor.last_sequence <= 500
    assert not await successor.publish(flight(deduplicated, first, 1))
    assert await successor.publish(flight(deduplicated, second, 501))
    assert await ids_on(topics, deduplicated, 1000) == [str(event.id) for event in first + second]


async def test_a_flight_is_stored_as_one_entry(new_publisher: NewPublisher, deduplicated: str, topics: Topics) -> None:
    """The broker knows entries by their first id: a flight cut in two would have left the id of its second part."""
    large = [envelope(payload=b'"' + b"x" * 1000 + b'"') for _ in range(2000)]
    assert await (await new_publisher().open(deduplicated)).publish(flight(deduplicated, large, 11))

    assert (await new_publisher().open(deduplicated)).last_sequence == 11

    assert len(await ids_on(topics, deduplicated, 2000)) == 2000


async def test_new_events_under_old_ids_are_told_from_stored_ones(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    """As after a restored backup. A receipt that called them stored would lose them."""
    producer = await new_publisher().open(deduplicated)
    assert await producer.publish(flight(deduplicated, before := events(3), 100))

    successor = await new_publisher().open(deduplicated)

    assert successor.last_sequence >= 100
    assert not await successor.publish(flight(deduplicated, events(2), 40))
    assert await ids_on(topics, deduplicated, 3) == [str(event.id) for event in before]


async def test_a_flight_whose_answer_did_not_come_in_time_is_stored_once_all_the_same(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    """With no time to answer, the flight is on its way, stored, or never sent: nobody can know."""
    hasty = new_publisher(timeout_seconds=0)
    sent = flight(deduplicated, events(50), 1)
    with pytest.raises(BusUnavailable) as raised:
        await (await hasty.open(deduplicated)).publish(sent)
    await hasty.close()

    await (await opened(new_publisher(), deduplicated)).publish(sent)

    assert raised.value.reason == "BrokerUnreachable"
    assert await ids_on(topics, deduplicated, 50) == [str(event_id) for event_id in sent.ids]


async def test_a_later_owner_ends_the_producer_of_the_former(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    former = await new_publisher().open(deduplicated)
    await former.publish(flight(deduplicated, taken := events(2), 1))
    await new_publisher().open(deduplicated)

    with pytest.raises(LeaseLost):
        await former.publish(flight(deduplicated, events(2), 3))

    assert await ids_on(topics, deduplicated, 2) == [str(event.id) for event in taken]


async def test_a_message_above_the_brokers_limit_is_refused_for_good_and_alone(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    publisher = new_publisher()
    good, huge = envelope(), envelope(payload=b"x" * (6 << 20))
    producer = await publisher.open(deduplicated)

    with pytest.raises(FlightRefused) as whole:
        await producer.publish(flight(deduplicated, [good, huge], 1))
    with pytest.raises(FlightRefused) as alone:
        await producer.publish(flight(deduplicated, [huge], 3))
    assert await producer.publish(flight(deduplicated, [good], 4))

    assert not whole.value.refusal.permanent
    assert alone.value.refusal.permanent
    assert await ids_on(topics, deduplicated, 1) == [str(good.id)]


async def test_a_text_that_cannot_be_encoded_is_refused_before_anything_is_sent(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    good, bad = envelope(), envelope(headers={"note": "\ud800"})
    producer = await new_publisher().open(deduplicated)

    with pytest.raises(FlightRefused) as raised:
        await producer.publish(flight(deduplicated, [good, bad], 1))
    assert await producer.publish(flight(deduplicated, [good], 3))

    assert raised.value.refusal.permanent
    assert await ids_on(topics, deduplicated, 1) == [str(good.id)]


@pytest.mark.parametrize(
    ("chosen", "permanent"),
    [("persistent://no-such-tenant/no-such-namespace/topic", False), ("nonsense://a/b/c", True), (" ", True)],
)
async def test_a_topic_that_rows_chose_wrongly_is_their_fault(
    new_publisher: NewPublisher, chosen: str, permanent: bool
) -> None:
    with pytest.raises(FlightRefused) as raised:
        await new_publisher(configured_topic="persistent://public/default/other").open(chosen)

    assert raised.value.refusal.permanent is permanent


async def test_a_topic_that_is_closed_under_a_flight_is_an_outage_of_that_flight_and_then_the_fault_of_its_rows(
    new_publisher: NewPublisher, deduplicated: str, namespaces: Namespaces
) -> None:
    """The flight may be stored, so it is not refused; what cannot be opened any more must not stop other topics."""
    publisher = new_publisher(configured_topic="persistent://public/default/other")
    producer = await publisher.open(deduplicated)
    await producer.publish(flight(deduplicated, events(2)))
    await namespaces.terminate(deduplicated)

    with pytest.raises(BusUnavailable):
        await producer.publish(flight(deduplicated, events(2), 3))
    with pytest.raises(FlightRefused, match="TopicTerminated"):
        await publisher.open(deduplicated)


async def test_a_configured_topic_that_is_not_there_is_an_outage(new_publisher: NewPublisher) -> None:
    topic = "persistent://public/no-such-namespace/events"

    with pytest.raises(BusUnavailable, match="no namespace public/no-such-namespace: create it") as raised:
        await new_publisher(configured_topic=topic).open(topic)

    assert raised.value.reason == "PulsarNamespaceNotFound"


async def test_a_broker_that_is_away_is_an_outage() -> None:
    publisher = PulsarLanePublisher("pulsar://127.0.0.1:1", producer_name="lane-0", timeout_seconds=1)

    with pytest.raises(BusUnavailable) as raised:
        await publisher.open("persistent://public/default/events")

    assert raised.value.reason == "BrokerUnreachable"
    await publisher.close()


async def test_each_lane_has_the_partition_of_its_number(
    new_publisher: NewPublisher, deduplicated: str, namespaces: Namespaces, topics: Topics
) -> None:
    await namespaces.partition(deduplicated, 2)
    for lane in (0, 1):
        producer = await new_publisher(producer_name=f"lane-{lane}", lane=lane).open(deduplicated)
        assert await producer.publish(flight(deduplicated, sent := events(2)))
        assert await ids_on(topics, f"{deduplicated}-partition-{lane}", 2) == [str(event.id) for event in sent]

    with pytest.raises(NoPartition, match="needs a partition of its own"):
        await new_publisher(lane=2, configured_topic=deduplicated).open(deduplicated)


async def test_a_connection_that_breaks_between_storing_and_the_answer_costs_no_event(
    pulsar_url: str, deduplicated: str, topics: Topics
) -> None:
    """The client sends the batch again by itself and is told that the broker has it: from this very flight."""
    async with Relay(pulsar_url.removeprefix("pulsar://")).running() as relay:
        if not relay.can_stand_in:
            pytest.skip("the address of the relay is longer or shorter than that of the broker")
        publisher = PulsarLanePublisher(relay.service_url, producer_name="lane-0", timeout_seconds=10)
        producer = await publisher.open(deduplicated)
        relay.cut_at_the_next_receipt()

        assert await producer.publish(sent := flight(deduplicated, events(3)))
        assert not await producer.publish(sent)
        await publisher.close()

    assert relay.cuts == 1
    assert await ids_on(topics, deduplicated, 3) == [str(event_id) for event_id in sent.ids]


async def test_a_quota_that_is_met_by_a_flight_whose_answer_was_lost_does_not_double_it(
    pulsar_url: str, new_publisher: NewPublisher, deduplicated: str, namespaces: Namespaces, topics: Topics
) -> None:
    """The broker has the flight, the client connects again, and is told of the quota: no refusal of it."""
    with topics.key_shared(deduplicated, consumers=1):
        pass  # what the subscription leaves there is the backlog
    namespace = deduplicated.removeprefix("persistent://").rpartition("/")[0]
    async with Relay(pulsar_url.removeprefix("pulsar://")).running() as relay:
        if not relay.can_stand_in:
            pytest.skip("the address of the relay is longer or shorter than that of the broker")
        publisher = PulsarLanePublisher(
            relay.service_url, producer_name="lane-0", timeout_seconds=10, configured_topic="another"
        )
        producer = await publisher.open(deduplicated)
        await namespaces.set(namespace, "backlogQuota", {"limitSize": 1, "policy": "producer_exception"})
        relay.cut_at_the_next_receipt()
        with pytest.raises(BusUnavailable, match="QuotaExceeded"):
            await producer.publish(sent := flight(deduplicated, events(3)))
        with pytest.raises(FlightRefused, match="QuotaExceeded"):
            await publisher.open(deduplicated)
        await publisher.close()

    await namespaces.set(namespace, "backlogQuota", {"limitSize": 1 << 30, "policy": "producer_exception"})
    await (await opened(new_publisher(), deduplicated)).publish(sent)
    assert await ids_on(topics, deduplicated, 3) == [str(event_id) for event_id in sent.ids]


async def test_by_key_each_key_is_an_entry_of_its_own_and_a_flight_sent_again_is_stored_once(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    sent = of_keys("zabzmzazqbamqzpoiuytrewlkjhgfdsxcvn" * 3)
    producer = await new_publisher(batching="KeyBased").open(deduplicated)
    assert await producer.publish(flight(deduplicated, sent, 1, by_key=True))

    successor = await new_publisher(batching="KeyBased").open(deduplicated)

    assert successor.last_sequence == 1 + max("zabzmzazqbamqzpoiuytrewlkjhgfdsxcvn".index(e.aggregate_id) for e in sent)
    assert not await successor.publish(flight(deduplicated, sent, 1, by_key=True))
    assert await successor.publish(flight(deduplicated, later := of_keys("ba"), len(sent) + 1, by_key=True))
    assert await ids_on(topics, deduplicated, len(sent) + 2) == by_key(sent) + by_key(later)


@pytest.mark.parametrize("stored_keys", ["z", "zab", "zabm"])
@pytest.mark.parametrize("batching", ["KeyBased", "Default"])
async def test_by_key_a_flight_that_was_stored_in_part_is_completed(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics, stored_keys: str, batching: str
) -> None:
    """Also by an owner that is set to the other batching: the flight is cut as it was written down."""
    sent = of_keys("zabzmaqzqm")
    await _store_in_part(topics, deduplicated, sent, stored_keys)

    producer = await new_publisher(batching=batching).open(deduplicated)
    await producer.publish(flight(deduplicated, sent, 1, by_key=True, recovered=True))

    assert await ids_on(topics, deduplicated, len(sent)) == by_key(sent)


async def _store_in_part(topics: Topics, topic: str, sent: Sequence[Envelope], keys: str) -> None:
    """As an owner does that is killed after the broker has stored the entries of these keys."""
    with topics.producer(topic, producer_name="lane-0", batching_type=pulsar.BatchingType.KeyBased) as producer:
        for number, event in enumerate(sent):
            if event.aggregate_id in keys:
                message = message_of(event)
                producer.send_async(
                    message.payload,
                    None,
                    partition_key=message.key,
                    properties=message.properties,
                    sequence_id=1 + number,
                )
        await asyncio.to_thread(producer.flush)


async def test_a_flight_is_cut_as_it_was_when_the_batching_has_changed_since(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    first, second = of_keys("abab"), of_keys("abab")
    assert await (await new_publisher().open(deduplicated)).publish(flight(deduplicated, first, 1))

    successor = await new_publisher(batching="KeyBased").open(deduplicated)

    assert not await successor.publish(flight(deduplicated, first, 1, recovered=True))
    assert await successor.publish(flight(deduplicated, second, 5, by_key=True))
    assert await ids_on(topics, deduplicated, 8) == [str(event.id) for event in first] + by_key(second)


async def test_by_key_a_pair_of_key_shared_consumers_gets_each_event_once_and_each_key_at_one(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics
) -> None:
    sent = [envelope(aggregate_id=f"order-{number % 20}") for number in range(100)]
    with topics.key_shared(deduplicated, consumers=2) as received:
        producer = await new_publisher(batching="KeyBased").open(deduplicated)
        for start in range(0, 100, 50):
            assert await producer.publish(flight(deduplicated, sent[start : start + 50], 1 + start, by_key=True))
        arrived = [await asyncio.to_thread(received.get, timeout=20) for _ in sent]

    assert sorted(message.event_id for _, message in arrived) == sorted(str(event.id) for event in sent)
    assert len({(consumer, message.key) for consumer, message in arrived}) == 20
    assert {consumer for consumer, _ in arrived} == {0, 1}
    for key in {event.aggregate_id for event in sent}:
        ids = [message.event_id for _, message in arrived if message.key == key]
        assert ids == [str(event.id) for event in sent if event.aggregate_id == key]


@pytest.mark.parametrize("compression", ["LZ4", "ZSTD"])
async def test_a_flight_may_be_compressed(
    new_publisher: NewPublisher, deduplicated: str, topics: Topics, namespaces: Namespaces, compression: str
) -> None:
    sent = [envelope(payload=b'"' + b"x" * 10_000 + b'"') for _ in range(100)]

    assert await (await new_publisher(compression=compression).open(deduplicated)).publish(flight(deduplicated, sent))

    assert [message.payload for message in await topics.exactly(100, deduplicated)] == [event.payload for event in sent]
    assert await namespaces.bytes_stored(deduplicated) < 100_000
