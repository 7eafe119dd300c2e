"""What is particular to Pulsar: the form of a message, topics by template and by row, and the troubles of a broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from bento_outbox import BusUnavailable, Envelope, EventsRefused
from bento_outbox.message_form import message_of
from bento_outbox.pulsar_bus import PulsarMessageBus
from outbox_projector.pulsar_lane import PulsarLanePublisher
from tests.support.envelopes import envelope
from tests.support.programs import started
from tests.support.pulsar_topics import Namespaces, Topics

NewBus = Callable[..., PulsarMessageBus]


@pytest.fixture
async def new_bus(pulsar_url: str) -> AsyncIterator[NewBus]:
    """Makes a bus for a topic template."""
    made: list[PulsarMessageBus] = []

    def make(template: str, **options: Any) -> PulsarMessageBus:
        made.append(PulsarMessageBus(pulsar_url, topic=template, timeout_seconds=5, **options))
        return made[-1]

    yield make
    for bus in made:
        await bus.close()


async def test_a_message_as_a_consumer_gets_it(new_bus: NewBus, topic: str, topics: Topics) -> None:
    event = envelope(
        schema_id="schemas/placed",
        schema_ver=2,
        created_at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        headers={"traceparent": "00-1-2-01", "käse": "Žofie 🎉", "type": "an impostor"},
    )
    await new_bus(topic).publish(event)

    [message] = await topics.exactly(1, topic)

    assert (message.payload, message.key, message.event_time) == (event.payload, "order-1", 1767323045678)
    assert message.properties == {
        "event_id": str(event.id),
        "type": "orders.Placed",
        "tenant_id": "acme",
        "aggregate_id": "order-1",
        "schema_id": "schemas/placed",
        "schema_ver": "2",
        "created_at": "2026-01-02T03:04:05.678000+00:00",
        "traceparent": "00-1-2-01",
        "käse": "Žofie 🎉",
    }


async def test_a_message_may_be_a_cloudevent(new_bus: NewBus, topic: str, topics: Topics) -> None:
    event = envelope()
    await new_bus(topic, cloudevents_source="/shops/{tenant}").publish(event)

    [message] = await topics.exactly(1, topic)

    assert message.properties == message_of(event, cloudevents_source="/shops/{tenant}").properties
    assert message.properties["ce_source"] == "/shops/acme"


@pytest.mark.parametrize("compression", ["LZ4", "ZSTD"])
async def test_messages_may_be_compressed(
    new_bus: NewBus, topic: str, topics: Topics, namespaces: Namespaces, compression: str
) -> None:
    events = [envelope(payload=b'"' + b"x" * 10_000 + b'"') for _ in range(100)]

    await new_bus(topic, compression=compression).publish(events)

    assert [message.payload for message in await topics.exactly(100, topic)] == [event.payload for event in events]
    assert await namespaces.bytes_stored(topic) < 100_000


async def test_by_key_each_of_two_key_shared_consumers_gets_keys_of_its_own(
    new_bus: NewBus, topic: str, topics: Topics
) -> None:
    events = [envelope(aggregate_id=f"order-{number % 20}") for number in range(100)]
    with topics.key_shared(topic, consumers=2) as received:
        await new_bus(topic, batching="KeyBased").publish(events)
        arrived = [await asyncio.to_thread(received.get, timeout=20) for _ in events]

    assert len({(consumer, message.key) for consumer, message in arrived}) == 20
    for key in {event.aggregate_id for event in events}:
        ids = [message.event_id for _, message in arrived if message.key == key]
        assert ids == [str(event.id) for event in events if event.aggregate_id == key]


async def test_the_topic_is_made_of_tenant_and_type(new_bus: NewBus, own_namespace: str, topics: Topics) -> None:
    bus = new_bus(f"persistent://{own_namespace}/{{tenant}}-{{type}}")
    events = [
        envelope(tenant_id=tenant, type=kind) for tenant in ("acme", "bolt") for kind in ("Placed", "Paid", "Placed")
    ]

    await bus.publish(events)

    def ids(tenant: str, kind: str) -> list[str]:
        return [str(event.id) for event in events if (event.tenant_id, event.type) == (tenant, kind)]

    for tenant in ("acme", "bolt"):
        for kind, count in (("Placed", 2), ("Paid", 1)):
            messages = await topics.exactly(count, f"persistent://{own_namespace}/{tenant}-{kind}")
            assert [message.event_id for message in messages] == ids(tenant, kind)


async def test_a_row_may_choose_its_own_topic(new_bus: NewBus, topic: str, topics: Topics) -> None:
    usual, routed = envelope(), envelope(topic=f"{topic}-routed")

    await new_bus(topic).publish([usual, routed])

    assert [message.event_id for message in await topics.exactly(1, topic)] == [str(usual.id)]
    assert [message.event_id for message in await topics.exactly(1, f"{topic}-routed")] == [str(routed.id)]


@pytest.mark.parametrize(
    ("chosen", "permanent"),
    [
        ("persistent://no-such-tenant/no-such-namespace/topic", False),
        ("nonsense://a/b/c", True),
        ("persistent://a/b", True),
        ("persistent://public/default/ ", True),
        (" ", True),
    ],
)
async def test_a_topic_that_a_row_chose_wrongly_is_that_rows_fault(
    new_bus: NewBus, topic: str, topics: Topics, chosen: str, permanent: bool
) -> None:
    good, bad = envelope(), envelope(topic=chosen)

    with pytest.raises(EventsRefused) as raised:
        await new_bus(topic).publish([bad, good])

    assert raised.value.refused.keys() == {bad.id}
    assert raised.value.refused[bad.id].permanent is permanent
    assert [message.event_id for message in await topics.exactly(1, topic)] == [str(good.id)]


async def test_a_text_that_cannot_be_encoded_is_that_events_fault(new_bus: NewBus, topic: str, topics: Topics) -> None:
    good, bad = envelope(), envelope(headers={"note": "\ud800"})

    with pytest.raises(EventsRefused) as raised:
        await new_bus(topic).publish([bad, good])

    assert raised.value.refused.keys() == {bad.id}
    assert raised.value.refused[bad.id].permanent
    assert [message.event_id for message in await topics.exactly(1, topic)] == [str(good.id)]


async def test_a_type_that_makes_no_topic_name_is_that_rows_fault(
    new_bus: NewBus, own_namespace: str, topics: Topics
) -> None:
    good, bad = envelope(type="Placed"), envelope(type=" ")

    with pytest.raises(EventsRefused) as raised:
        await new_bus(f"persistent://{own_namespace}/{{type}}").publish([bad, good])

    assert raised.value.refused.keys() == {bad.id}
    assert raised.value.refused[bad.id].permanent
    assert len(await topics.exactly(1, f"persistent://{own_namespace}/Placed")) == 1


async def test_a_namespace_that_does_not_exist_is_an_outage_that_ends_when_it_does(
    new_bus: NewBus, own_namespace: str, namespaces: Namespaces, topics: Topics
) -> None:
    topic = f"persistent://{own_namespace}/events"
    bus = new_bus(topic)
    await namespaces.delete(own_namespace)
    for attempt in (bus.publish(envelope()), bus.check("acme")):
        with pytest.raises(BusUnavailable, match=f"no namespace {own_namespace}: create it") as raised:
            await attempt
        assert raised.value.reason == "PulsarNamespaceNotFound"

    await namespaces.create(own_namespace)
    await bus.check("acme")
    await bus.publish(envelope())

    assert len(await topics.exactly(1, topic)) == 1


async def test_a_topic_that_is_deleted_under_a_producer_is_made_anew(
    new_bus: NewBus, topic: str, namespaces: Namespaces, topics: Topics
) -> None:
    bus = new_bus(topic)
    await bus.publish(envelope())
    await namespaces.delete_topic(topic)
    event = envelope()

    await _published_within(bus, event, attempts=20)

    assert str(event.id) in await asyncio.to_thread(topics.distinct, topic)


async def test_a_namespace_that_is_deleted_under_a_producer_and_comes_back(
    new_bus: NewBus, own_namespace: str, namespaces: Namespaces, topics: Topics
) -> None:
    topic = f"persistent://{own_namespace}/events"
    bus = new_bus(topic)
    await bus.publish(envelope())
    await namespaces.delete(own_namespace)
    with pytest.raises(BusUnavailable):
        await bus.publish(envelope())

    await namespaces.create(own_namespace)
    event = envelope()
    await _published_within(bus, event, attempts=20)

    assert str(event.id) in await asyncio.to_thread(topics.distinct, topic)


async def test_a_topic_that_was_terminated_is_refused_by_the_broker(
    new_bus: NewBus, topic: str, namespaces: Namespaces
) -> None:
    bus = new_bus(topic)
    await bus.publish(envelope())
    await namespaces.terminate(topic)

    for _ in range(2):
        with pytest.raises(BusUnavailable, match=topic) as raised:
            await bus.publish(envelope())
        assert raised.value.reason == "BrokerRefused"


async def test_a_topic_that_rows_chose_and_that_was_terminated_under_a_producer_stops_no_other(
    new_bus: NewBus, topic: str, namespaces: Namespaces, topics: Topics
) -> None:
    bus, chosen = new_bus(topic), f"{topic}-chosen"
    await bus.publish(envelope(topic=chosen))
    await namespaces.terminate(chosen)

    good = [envelope(), envelope()]
    for event in good:
        bad = envelope(topic=chosen)
        with pytest.raises(EventsRefused, match="TopicTerminated") as raised:
            await bus.publish([bad, event])
        assert raised.value.refused.keys() == {bad.id}

    assert [message.event_id for message in await topics.exactly(2, topic)] == [str(event.id) for event in good]


async def test_what_was_stored_before_an_outage_is_told(
    new_bus: NewBus, topic: str, topics: Topics, own_namespace: str, namespaces: Namespaces
) -> None:
    """The first of two topics works, the second belongs to a tenant whose namespace is gone."""
    bus = new_bus(f"persistent://{own_namespace}-{{tenant}}/events")
    await namespaces.create(f"{own_namespace}-acme")
    stored, waiting = envelope(), envelope(tenant_id="bolt")

    with pytest.raises(BusUnavailable) as raised:
        await bus.publish([stored, waiting])

    assert raised.value.stored == {stored.id}
    await namespaces.delete(f"{own_namespace}-acme")


async def test_check_asks_for_the_topic_of_the_tenant(new_bus: NewBus) -> None:
    bus = new_bus("persistent://public/{tenant}/events")
    await bus.check("default")

    with pytest.raises(BusUnavailable, match="no namespace public/no-such-namespace") as raised:
        await bus.check("no-such-namespace")

    assert raised.value.reason == "PulsarNamespaceNotFound"


async def test_check_of_a_template_with_the_type_needs_no_event(new_bus: NewBus, own_namespace: str) -> None:
    await new_bus(f"persistent://{own_namespace}/{{type}}").check("acme")


async def test_many_events_of_the_largest_size_that_a_batch_takes(new_bus: NewBus, topic: str, topics: Topics) -> None:
    events = [envelope(payload=b"x" * 1_000_000) for _ in range(20)]

    await new_bus(topic).publish(events)

    assert [message.event_id for message in await topics.exactly(20, topic)] == [str(event.id) for event in events]


async def test_a_client_that_is_dropped_while_it_sends_lets_the_publish_end(pulsar_url: str, topic: str) -> None:
    """Closed in a way that waits with the interpreter's lock held, it would stop the process for good."""
    async with started("python", "-m", "tests.support.dropped_client", topic, PULSAR_URL=pulsar_url) as process:
        ended = await process.logged("ended")

        assert (await process.finished()).code == 0
        assert ended["stored"] > 0


async def _published_within(bus: PulsarMessageBus, event: Envelope, *, attempts: int) -> None:
    """Publishes as the projector does: an outage is followed by the next attempt."""
    for _ in range(attempts):
        try:
            return await bus.publish(event)
        except BusUnavailable as error:
            last = error
    raise AssertionError(f"not published in {attempts} attempts") from last


async def test_a_topic_that_a_projector_keeps_for_itself_is_an_outage_that_names_the_way_out(
    new_bus: NewBus, topic: str, pulsar_url: str, topics: Topics
) -> None:
    """As with `delivery.guarantee: ExactlyOnce`, whose producer also fences those that were there before."""
    before, after = new_bus(topic), new_bus(topic)
    await before.publish(envelope())
    lane = PulsarLanePublisher(pulsar_url, producer_name="lane-0", timeout_seconds=10)
    await lane.open(topic)

    with pytest.raises(BusUnavailable):
        await before.publish(envelope())  # fenced, it hears nothing any more
    for attempt in (before.publish(envelope()), after.publish(envelope()), after.check("acme")):
        with pytest.raises(BusUnavailable, match=r"exclusive, .* ExactlyOnce .*: leave publishing to it") as raised:
            await attempt
        assert raised.value.reason == "BrokerRefused"

    await lane.close()
    await _published_within(after, envelope(), attempts=20)
    assert len(await topics.exactly(2, topic)) == 2
