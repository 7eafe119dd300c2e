"""At least once to Pulsar: a flight as one batch where that is possible, else message by message.

The broker answers once for a batch, and a callback into Python costs as much as all else that a message takes. On a
topic with partitions the client decides by the key where a message goes, and so what shares a batch: there each message
needs an answer of its own, which the bus takes.
"""

from __future__ import annotations

from outbox_projector.flights import LanePublisher, Producer
from outbox_projector.pulsar_lane import PulsarLanePublisher, TopicIsPartitioned


class AtLeastOnce:
    """A lane's publisher that chooses for each topic."""

    def __init__(self, batches: PulsarLanePublisher, messages: LanePublisher) -> None:
        """batches: without a producer name. messages: over the bus, for topics with partitions."""
        self._batches = batches
        self._messages = messages

    async def open(self, topic: str) -> Producer:
        """Raises BusUnavailable, FlightRefused."""
        try:
            return await self._batches.open(topic)
        except TopicIsPartitioned:
            return await self._messages.open(topic)

    async def close(self) -> None:
        """Ends all producers of batches."""
        await self._batches.close()
        await self._messages.close()
