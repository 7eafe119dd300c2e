"""A bus without sequence ids as a lane sees it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bento_outbox import BusUnavailable, Envelope, EventsRefused, InMemoryMessageBus, Refusal
from bento_outbox.bus import as_list
from outbox_projector.bus_lane import BusLanePublisher
from outbox_projector.flights import Flight
from tests.support.envelopes import envelope

TOPIC = "any"


class HalfAnOutage(InMemoryMessageBus):
    """Stores the first event of its first call, and then goes away once."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        self._calls += 1
        first, *rest = as_list(events)
        if self._calls > 1:
            return await super().publish([first, *rest])
        await super().publish(first)
        raise BusUnavailable("gone", stored=[first.id])


def flight(*events: Envelope) -> Flight:
    return Flight(topic=TOPIC, first_sequence=1, events=events, retry_counts={})


async def test_events_are_published_in_order(memory_bus: InMemoryMessageBus) -> None:
    one, two = envelope(), envelope()

    producer = await BusLanePublisher(memory_bus).open(TOPIC)

    assert await producer.publish(flight(one, two))
    assert memory_bus.published == [one, two]


async def test_what_was_stored_before_an_outage_is_not_published_again() -> None:
    bus = HalfAnOutage()
    publisher = BusLanePublisher(bus)
    sent = flight(envelope(), envelope())
    with pytest.raises(BusUnavailable):
        await (await publisher.open(TOPIC)).publish(sent)
    await publisher.close()

    await (await publisher.open(TOPIC)).publish(sent)

    assert bus.published == list(sent.events)


async def test_a_requeued_event_is_published_again(memory_bus: InMemoryMessageBus) -> None:
    sent = flight(envelope())
    producer = await BusLanePublisher(memory_bus).open(TOPIC)

    await producer.publish(sent)
    await producer.publish(sent)

    assert memory_bus.published == [*sent.events, *sent.events]


async def test_which_events_a_bus_refuses_is_passed_on(memory_bus: InMemoryMessageBus) -> None:
    good, bad = envelope(), envelope(type="orders.Bad")
    memory_bus.refuse("orders.Bad", Refusal("no"))

    with pytest.raises(EventsRefused) as raised:
        await (await BusLanePublisher(memory_bus).open(TOPIC)).publish(flight(good, bad))

    assert raised.value.refused.keys() == {bad.id}
    assert memory_bus.published == [good]
