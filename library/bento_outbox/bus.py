"""The message bus: the port through which envelopes leave, and an implementation in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from bento_outbox.envelope import Envelope
from bento_outbox.errors import BusUnavailable, EventsRefused, Refusal


@runtime_checkable
class MessageBus(Protocol):
    """Where events are published. `bento_outbox.testing.MessageBusContract` tests what each must do."""

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        """Returns when the bus has stored every event durably; events with the same key keep their order.

        Raises EventsRefused when the bus works but does not take some of them: all others are stored.
        Raises BusUnavailable when it cannot be used: `stored` tells which it acknowledged before; any other may
        or may not be stored. Publishing an event again is allowed at any time.
        """
        ...

    async def check(self, tenant_id: str) -> None:
        """Returns when events of this tenant could be published now. Raises BusUnavailable with the reason."""
        ...

    async def close(self) -> None:
        """Frees connections. Idempotent; no other call may follow."""
        ...


def as_list(events: Envelope | Sequence[Envelope]) -> list[Envelope]:
    """One event or many, as a list."""
    return [events] if isinstance(events, Envelope) else list(events)


class InMemoryMessageBus:
    """A bus for tests and examples: keeps what was published, and fails as it is told to."""

    def __init__(self) -> None:
        self.published: list[Envelope] = []
        self._outage: BusUnavailable | None = None
        self._refusals: dict[str, Refusal] = {}

    def go_down(self, message: str = "the in-memory bus was told to be down") -> None:
        """From now on nothing can be published, until `come_back`."""
        self._outage = BusUnavailable(message)

    def come_back(self) -> None:
        """Ends the outage."""
        self._outage = None

    def refuse(self, event_type: str, refusal: Refusal) -> None:
        """From now on events of this type are refused."""
        self._refusals[event_type] = refusal

    def accept(self, event_type: str) -> None:
        """Takes back `refuse`."""
        self._refusals.pop(event_type, None)

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        if self._outage is not None:
            raise BusUnavailable(str(self._outage))
        refused = {}
        for event in as_list(events):
            if event.type in self._refusals:
                refused[event.id] = self._refusals[event.type]
            else:
                self.published.append(event)
        if refused:
            raise EventsRefused(refused)

    async def check(self, tenant_id: str) -> None:
        if self._outage is not None:
            raise BusUnavailable(str(self._outage))

    async def close(self) -> None:
        pass
