"""What every MessageBus does, as tests: derive from the class to run them against your own.

    class TestMyBus(MessageBusContract):
        @pytest.fixture
        async def harness(self) -> AsyncIterator[MessageBusHarness]:
            harness = MyHarness(...)
            yield harness
            await harness.close()

Needs pytest and pytest-asyncio: with `asyncio_mode = "auto"`, or with the mark `asyncio` on your class. The
expectations are written by hand, not computed from an implementation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4

import msgspec
import pytest

from bento_outbox.bus import MessageBus
from bento_outbox.envelope import Envelope
from bento_outbox.errors import BusUnavailable, EventsRefused

PAYLOADS = [b"{}", b"null", '{"name": "Žofie 🎉"}'.encode(), b"0" * 100_000]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedEvent:
    """One event as a consumer of the bus gets it; `key` is what decides its order."""

    id: UUID
    key: str
    payload: bytes


class MessageBusHarness(Protocol):
    """A bus with nothing published yet, what comes out of it, and the ways in which it fails."""

    bus: MessageBus

    async def received(self, count: int) -> list[ReceivedEvent]:
        """All that was published so far, in order for each key. Fails unless it is `count` events."""
        ...

    def refused_for_ever(self) -> Envelope:
        """An event that the bus never takes, such as one that is too large for it."""
        ...

    async def unavailable(self) -> MessageBus:
        """Another bus of the same kind, which cannot be used, such as one with an address where nobody listens."""
        ...


_EXAMPLE = Envelope(
    id=uuid4(), tenant_id="acme", aggregate_id="order-1", type="orders.Placed", payload=b'{"total": 12}'
)


def _event(*, aggregate_id: str = "order-1", ordering_key: str | None = None, payload: bytes = b"{}") -> Envelope:
    given = {"aggregate_id": aggregate_id, "ordering_key": ordering_key, "payload": payload}
    return msgspec.structs.replace(_EXAMPLE, id=uuid4(), **given)


class MessageBusContract:
    """The tests. A class that derives from it, named `Test…`, gives them the fixture `harness`."""

    async def test_one_event(self, harness: MessageBusHarness) -> None:
        event = _event(payload=b'{"total": 12}')

        await harness.bus.publish(event)

        assert await harness.received(1) == [ReceivedEvent(id=event.id, key="order-1", payload=b'{"total": 12}')]

    async def test_no_events(self, harness: MessageBusHarness) -> None:
        await harness.bus.publish([])

        assert await harness.received(0) == []

    async def test_many_events_each_once(self, harness: MessageBusHarness) -> None:
        events = [_event(aggregate_id=f"order-{number % 7}") for number in range(500)]

        await harness.bus.publish(events)

        assert {received.id for received in await harness.received(500)} == {event.id for event in events}

    async def test_events_of_one_aggregate_keep_their_order_over_several_calls(
        self, harness: MessageBusHarness
    ) -> None:
        keys = ["order-0", "order-1", "order-2"]
        for start in range(0, 300, 100):
            numbers = range(start, start + 100)
            await harness.bus.publish([_event(aggregate_id=keys[n % 3], payload=str(n).encode()) for n in numbers])

        received = await harness.received(300)

        assert {key: [int(event.payload) for event in received if event.key == key] for key in keys} == {
            "order-0": list(range(0, 300, 3)),
            "order-1": list(range(1, 300, 3)),
            "order-2": list(range(2, 300, 3)),
        }

    async def test_an_ordering_key_takes_the_place_of_the_aggregate(self, harness: MessageBusHarness) -> None:
        await harness.bus.publish(_event(aggregate_id="order-1", ordering_key="customer-9"))

        assert [received.key for received in await harness.received(1)] == ["customer-9"]

    @pytest.mark.parametrize("payload", PAYLOADS, ids=["object", "null", "unicode", "100 kB"])
    async def test_the_payload_arrives_byte_for_byte(self, harness: MessageBusHarness, payload: bytes) -> None:
        await harness.bus.publish(_event(payload=payload))

        assert [received.payload for received in await harness.received(1)] == [payload]

    async def test_an_event_may_be_published_again(self, harness: MessageBusHarness) -> None:
        event = _event()

        await harness.bus.publish(event)
        await harness.bus.publish(event)

        assert {received.id for received in await harness.received(2)} == {event.id}

    async def test_a_refused_event_is_named_and_does_not_stop_the_others(self, harness: MessageBusHarness) -> None:
        refused = harness.refused_for_ever()
        before, after = _event(), _event()

        with pytest.raises(EventsRefused) as raised:
            await harness.bus.publish([before, refused, after])

        assert raised.value.refused.keys() == {refused.id}
        assert raised.value.refused[refused.id].permanent
        assert raised.value.refused[refused.id].reason
        assert {received.id for received in await harness.received(2)} == {before.id, after.id}

    async def test_after_a_refusal_the_bus_goes_on(self, harness: MessageBusHarness) -> None:
        with pytest.raises(EventsRefused):
            await harness.bus.publish(harness.refused_for_ever())
        event = _event()

        await harness.bus.publish(event)

        assert [received.id for received in await harness.received(1)] == [event.id]

    async def test_an_outage_has_a_reason_and_nothing_is_called_stored(self, harness: MessageBusHarness) -> None:
        bus = await harness.unavailable()

        with pytest.raises(BusUnavailable) as raised:
            await bus.publish([_event(), _event()])

        assert raised.value.reason == "BrokerUnreachable"
        assert raised.value.stored == frozenset()

    async def test_a_check_finds_a_bus_that_works(self, harness: MessageBusHarness) -> None:
        await harness.bus.check("acme")

        assert await harness.received(0) == []

    async def test_a_check_finds_an_outage(self, harness: MessageBusHarness) -> None:
        bus = await harness.unavailable()

        with pytest.raises(BusUnavailable) as raised:
            await bus.check("acme")

        assert raised.value.reason == "BrokerUnreachable"

    async def test_close_is_idempotent(self, harness: MessageBusHarness) -> None:
        await harness.bus.publish(_event())

        await harness.bus.close()
        await harness.bus.close()

    async def test_a_bus_that_was_never_used_or_never_worked_can_be_closed(self, harness: MessageBusHarness) -> None:
        await harness.bus.close()
        bus = await harness.unavailable()
        with pytest.raises(BusUnavailable):
            await bus.check("acme")

        await bus.close()
