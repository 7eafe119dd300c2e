"""What every MessageBus does. One suite, each test on the bus in memory and on Pulsar."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import UUID

import pytest

from bento_outbox import BusUnavailable, Envelope, EventsRefused, InMemoryMessageBus, MessageBus, Refusal
from bento_outbox.pulsar_bus import PulsarMessageBus
from tests.support.envelopes import envelope
from tests.support.pulsar_topics import Topics

NOBODY_LISTENS = "pulsar://127.0.0.1:1"
LARGER_THAN_PULSAR_TAKES = b'"' + b"x" * 6_000_000 + b'"'


class Harness(Protocol):
    """A bus, what came out of it, and the ways in which it fails."""

    bus: MessageBus

    async def received(self, count: int) -> list[tuple[UUID, str, bytes]]:
        """Id, key and payload of all that was published, which must be `count` events."""
        ...

    def refused_for_ever(self) -> Envelope:
        """An event that this bus never takes."""
        ...

    async def unavailable(self) -> MessageBus:
        """A bus of the same kind that cannot be used."""
        ...


class InMemory:
    def __init__(self) -> None:
        self.bus = InMemoryMessageBus()

    async def received(self, count: int) -> list[tuple[UUID, str, bytes]]:
        assert len(self.bus.published) == count
        return [(event.id, event.ordering_key or event.aggregate_id, event.payload) for event in self.bus.published]

    def refused_for_ever(self) -> Envelope:
        self.bus.refuse("orders.Refused", Refusal("told to refuse it", permanent=True))
        return envelope(type="orders.Refused")

    async def unavailable(self) -> MessageBus:
        bus = InMemoryMessageBus()
        bus.go_down()
        return bus


class Pulsar:
    def __init__(self, bus: PulsarMessageBus, topic: str, topics: Topics) -> None:
        self.bus = bus
        self._topic = topic
        self._topics = topics
        self.opened: list[PulsarMessageBus] = [bus]

    async def received(self, count: int) -> list[tuple[UUID, str, bytes]]:
        messages = await self._topics.exactly(count, self._topic)
        return [(UUID(message.event_id), message.key, message.payload) for message in messages]

    def refused_for_ever(self) -> Envelope:
        return envelope(payload=LARGER_THAN_PULSAR_TAKES)

    async def unavailable(self) -> MessageBus:
        self.opened.append(PulsarMessageBus(NOBODY_LISTENS, timeout_seconds=1))
        return self.opened[-1]


@pytest.fixture
def memory() -> Harness:
    return InMemory()


@pytest.fixture
async def pulsar(pulsar_url: str, topic: str, topics: Topics) -> AsyncIterator[Harness]:
    harness = Pulsar(PulsarMessageBus(pulsar_url, topic=topic), topic, topics)
    yield harness
    for bus in harness.opened:
        await bus.close()


@pytest.fixture(params=["memory", "pulsar"])
def harness(request: pytest.FixtureRequest) -> Harness:
    harness: Harness = request.getfixturevalue(request.param)
    return harness


async def test_one_event(harness: Harness) -> None:
    event = envelope()

    await harness.bus.publish(event)

    assert await harness.received(1) == [(event.id, "order-1", event.payload)]


async def test_no_events(harness: Harness) -> None:
    await harness.bus.publish([])


async def test_many_events_each_once(harness: Harness) -> None:
    events = [envelope(aggregate_id=f"order-{number % 7}") for number in range(500)]

    await harness.bus.publish(events)

    assert {received[0] for received in await harness.received(500)} == {event.id for event in events}


async def test_events_of_one_aggregate_keep_their_order_over_several_calls(harness: Harness) -> None:
    numbers: dict[str, list[int]] = {"order-1": [], "order-2": [], "order-3": []}
    keys = list(numbers)
    for start in range(0, 300, 100):
        await harness.bus.publish(
            [envelope(aggregate_id=keys[n % 3], payload=str(n).encode()) for n in range(start, start + 100)]
        )

    for _, key, payload in await harness.received(300):
        numbers[key].append(int(payload))

    assert numbers == {key: [n for n in range(300) if n % 3 == index] for index, key in enumerate(keys)}


async def test_an_ordering_key_takes_the_place_of_the_aggregate(harness: Harness) -> None:
    await harness.bus.publish(envelope(aggregate_id="order-1", ordering_key="customer-9"))

    assert [key for _, key, _ in await harness.received(1)] == ["customer-9"]


@pytest.mark.parametrize("payload", [b"{}", b"null", '{"name": "Žofie 🎉"}'.encode(), b"0" * 100_000])
async def test_the_payload_arrives_byte_for_byte(harness: Harness, payload: bytes) -> None:
    await harness.bus.publish(envelope(payload=payload))

    assert [received[2] for received in await harness.received(1)] == [payload]


async def test_an_event_may_be_published_again(harness: Harness) -> None:
    event = envelope()

    await harness.bus.publish(event)
    await harness.bus.publish(event)

    assert {received[0] for received in await harness.received(2)} == {event.id}


async def test_a_refused_event_is_named_and_does_not_stop_the_others(harness: Harness) -> None:
    refused = harness.refused_for_ever()
    before, after = envelope(), envelope()

    with pytest.raises(EventsRefused) as raised:
        await harness.bus.publish([before, refused, after])

    assert raised.value.refused.keys() == {refused.id}
    assert raised.value.refused[refused.id].permanent
    assert raised.value.refused[refused.id].reason
    assert {received[0] for received in await harness.received(2)} == {before.id, after.id}


async def test_after_a_refusal_the_bus_goes_on(harness: Harness) -> None:
    with pytest.raises(EventsRefused):
        await harness.bus.publish(harness.refused_for_ever())
    event = envelope()

    await harness.bus.publish(event)

    assert [received[0] for received in await harness.received(1)] == [event.id]


async def test_an_outage_has_a_reason_and_nothing_is_called_stored(harness: Harness) -> None:
    bus = await harness.unavailable()

    with pytest.raises(BusUnavailable) as raised:
        await bus.publish([envelope(), envelope()])

    assert raised.value.reason == "BrokerUnreachable"
    assert raised.value.stored == frozenset()


async def test_a_check_finds_a_bus_that_works(harness: Harness) -> None:
    await harness.bus.check("acme")

    assert await harness.received(0) == []


async def test_a_check_finds_an_outage(harness: Harness) -> None:
    bus = await harness.unavailable()

    with pytest.raises(BusUnavailable) as raised:
        await bus.check("acme")

    assert raised.value.reason == "BrokerUnreachable"


async def test_close_is_idempotent(harness: Harness) -> None:
    await harness.bus.publish(envelope())

    await harness.bus.close()
    await harness.bus.close()


async def test_a_bus_that_was_never_used_or_never_worked_can_be_closed(harness: Harness) -> None:
    await harness.bus.close()
    bus = await harness.unavailable()
    with pytest.raises(BusUnavailable):
        await bus.check("acme")

    await bus.close()


def test_a_refusal_by_size_is_beyond_any_batch_that_would_hide_it() -> None:
    """The event that Pulsar refuses is valid JSON and above its default limit of 5 MiB."""
    assert len(LARGER_THAN_PULSAR_TAKES) > 5 * 1024 * 1024
    assert json.loads(LARGER_THAN_PULSAR_TAKES)
