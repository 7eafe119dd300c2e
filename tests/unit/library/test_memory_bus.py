"""What the in-memory bus can be told to do; how a bus behaves is in contract/test_message_bus."""

from __future__ import annotations

import pytest

from bento_outbox import BusUnavailable, EventsRefused, InMemoryMessageBus, MessageBus, Refusal
from tests.support.envelopes import envelope


def test_it_is_a_message_bus() -> None:
    assert isinstance(InMemoryMessageBus(), MessageBus)


async def test_an_outage_lasts_until_it_is_ended(memory_bus: InMemoryMessageBus) -> None:
    memory_bus.go_down("maintenance")
    for _ in range(2):
        with pytest.raises(BusUnavailable, match="maintenance"):
            await memory_bus.publish(envelope())
    memory_bus.come_back()

    await memory_bus.publish(envelope())

    assert len(memory_bus.published) == 1


async def test_a_refusal_lasts_until_it_is_taken_back(memory_bus: InMemoryMessageBus) -> None:
    memory_bus.refuse("orders.Placed", Refusal("no"))
    with pytest.raises(EventsRefused, match=r"1 event\(s\) refused, the first because: no"):
        await memory_bus.publish(envelope())
    memory_bus.accept("orders.Placed")

    await memory_bus.publish(envelope())

    assert len(memory_bus.published) == 1
