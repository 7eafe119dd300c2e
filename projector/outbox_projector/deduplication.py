"""Whether the broker deduplicates, seen from what it remembers of us: a lane's publisher that looks.

A new connection is told the highest sequence id that the broker has from this lane. A broker that deduplicates knows
the flight that it has just acknowledged; one that does not knows nothing. So after the first flight to a topic, and
now and then after a later one, a new connection is made. That takes some milliseconds, needs no other rights than
publishing, and shows what the broker does instead of what somebody has configured.

A broker that knows nothing although we have sent something before has forgotten it: by default six hours after the
last event, or because the topic was made anew. New events are not in danger, but a flight that a crash left open may
already be there, and is sent again: lost it would be worse.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from bento_outbox import BusUnavailable
from outbox_projector.flights import Flight, FlightRefused, LanePublisher, Producer

LOOK_SECONDS = 300.0
"""Between two looks at a topic. Somebody may switch deduplication off, or on, at any time."""


class DeduplicationObserver(Protocol):
    """Told what is seen; must not block or raise."""

    def deduplication_seen(self, topic: str, *, active: bool) -> None: ...
    def deduplication_forgotten(self, topic: str, *, perhaps_doubled: int) -> None: ...


class WatchedPublisher:
    """A lane's publisher, whose producers look."""

    def __init__(
        self, inner: LanePublisher, observer: DeduplicationObserver, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._observer = observer
        self._clock = clock

    async def open(self, topic: str) -> Producer:
        return _WatchedProducer(topic, await self._inner.open(topic), self._inner, self._observer, self._clock)

    async def close(self) -> None:
        await self._inner.close()


class _WatchedProducer:
    """A producer that is replaced by one on a new connection for each look."""

    def __init__(
        self,
        topic: str,
        producer: Producer,
        publisher: LanePublisher,
        observer: DeduplicationObserver,
        clock: Callable[[], float],
    ) -> None:
        self._topic = topic
        self._producer = producer
        self._publisher = publisher
        self._observer = observer
        self._clock = clock
        self._has_published = False
        self._next_look = clock()

    @property
    def last_sequence(self) -> int:
        return self._producer.last_sequence

    async def publish(self, flight: Flight) -> bool:
        """See Producer."""
        if not self._has_published and flight.first_sequence > 1 and self.last_sequence == 0:
            perhaps_doubled = len(flight.events) if flight.recovered else 0
            self._observer.deduplication_forgotten(self._topic, perhaps_doubled=perhaps_doubled)
        stored = await self._producer.publish(flight)
        self._has_published = True
        if stored and self._clock() >= self._next_look:
            await self._look(flight)
        return stored

    async def _look(self, flight: Flight) -> None:
        try:
            self._producer = await self._publisher.open(self._topic)
        except (BusUnavailable, FlightRefused):
            return  # The flight is stored, which is what counts; the next one meets the trouble.
        self._next_look = self._clock() + LOOK_SECONDS
        self._observer.deduplication_seen(self._topic, active=self.last_sequence >= flight.first_sequence)
