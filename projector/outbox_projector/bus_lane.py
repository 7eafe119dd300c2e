"""Any message bus as one lane sees it: in order, at least once.

Such a bus knows no sequence ids, so a flight that is sent again after a crash is published again, with the same event
ids. What the bus said it had stored before an outage is remembered within this process, and not published again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from uuid import UUID

from bento_outbox import BusUnavailable, EventsRefused, MessageBus
from outbox_projector.flights import Flight, LanePublisher, Lease


def publishers_on(bus: MessageBus) -> Callable[[Lease], LanePublisher]:
    """One for each lane, whoever owns it: what it stored before an outage is known to its next owner here."""
    of_lane = cache(lambda _lane: BusLanePublisher(bus))
    return lambda lease: of_lane(lease.lane)


class BusLanePublisher:
    """Opens producers on a bus, which other lanes may share: closing this leaves the bus open."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._stored: set[UUID] = set()  # of flights that an outage cut short; written by the producers

    async def open(self, topic: str) -> BusLaneProducer:
        """Needs no connection. The bus routes each event itself, so the topic only tells flights apart."""
        return BusLaneProducer(self._bus, self._stored)

    async def close(self) -> None:
        """What was stored stays known: the lane closes and opens again after an outage."""


class BusLaneProducer:
    """Publishes flights to the bus."""

    last_sequence = 0

    def __init__(self, bus: MessageBus, stored: set[UUID]) -> None:
        self._bus = bus
        self._stored = stored

    async def publish(self, flight: Flight) -> bool:
        """Always True: the bus does not know what it had. Raises BusUnavailable, EventsRefused."""
        missing = [event for event in flight.events if event.id not in self._stored]
        try:
            if missing:
                await self._bus.publish(missing)
        except BusUnavailable as error:
            self._stored |= error.stored
            raise
        except EventsRefused:
            self._stored.difference_update(flight.ids)
            raise
        self._stored.difference_update(flight.ids)
        return True
