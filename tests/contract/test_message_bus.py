"""The contract of MessageBus, on the bus in memory and on Pulsar."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from bento_outbox import Envelope, InMemoryMessageBus, MessageBus, Refusal
from bento_outbox.pulsar_bus import PulsarMessageBus
from bento_outbox.testing import MessageBusContract, MessageBusHarness, ReceivedEvent
from tests.support.envelopes import envelope
from tests.support.pulsar_topics import Topics

NOBODY_LISTENS = "pulsar://127.0.0.1:1"
LARGER_THAN_PULSAR_TAKES = b'"' + b"x" * 6_000_000 + b'"'


class InMemory:
    def __init__(self) -> None:
        self.bus = InMemoryMessageBus()

    async def received(self, count: int) -> list[ReceivedEvent]:
        assert len(self.bus.published) == count
        return [
            ReceivedEvent(id=event.id, key=event.ordering_key or event.aggregate_id, payload=event.payload)
            for event in self.bus.published
        ]

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

    async def received(self, count: int) -> list[ReceivedEvent]:
        messages = await self._topics.exactly(count, self._topic)
        return [
            ReceivedEvent(id=UUID(message.event_id), key=message.key, payload=message.payload) for message in messages
        ]

    def refused_for_ever(self) -> Envelope:
        return envelope(payload=LARGER_THAN_PULSAR_TAKES)

    async def unavailable(self) -> MessageBus:
        self.opened.append(PulsarMessageBus(NOBODY_LISTENS, timeout_seconds=1))
        return self.opened[-1]


class TestInMemoryMessageBus(MessageBusContract):
    @pytest.fixture
    def harness(self) -> MessageBusHarness:
        return InMemory()


class TestPulsarMessageBus(MessageBusContract):
    @pytest.fixture
    async def harness(self, pulsar_url: str, topic: str, topics: Topics) -> AsyncIterator[MessageBusHarness]:
        harness = Pulsar(PulsarMessageBus(pulsar_url, topic=topic), topic, topics)
        yield harness
        for bus in harness.opened:
            await bus.close()


def test_a_refusal_by_size_is_beyond_any_batch_that_would_hide_it() -> None:
    """The event that Pulsar refuses is valid JSON and above its default limit of 5 MiB."""
    assert len(LARGER_THAN_PULSAR_TAKES) > 5 * 1024 * 1024
    assert json.loads(LARGER_THAN_PULSAR_TAKES)
