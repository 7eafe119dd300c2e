"""Pulsar as one lane sees it: each flight is one batch, which the broker stores once, as one entry.

The broker deduplicates by producer name and topic: what has no higher sequence id than it has seen is dropped. The
client writes only the first id of a batch, so a flight must never be cut otherwise than before: limits of the client
that would cut it lie above every flight that is sent, and a flight above ours is refused before anything is sent.

A lane has its topic (or its partition of it) to itself: opening a producer fences every other one there, whatever its
name. So a lane without a partition of its own gets no producer. Partitions are addressed one by one, since the client's
flush of a partitioned producer reports on the last partition only.

Sending does not time out by itself (`send_timeout_millis=0`): a message that the client gave up may still be stored.
Our own clock ends the wait, and with it the client; the flight stays open and is sent again under the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pulsar

from bento_outbox import BusUnavailable, Refusal
from bento_outbox.message_form import Message, message_of
from bento_outbox.pulsar_answers import OUTAGES, PERMANENT, is_topics_fault, unavailable
from bento_outbox.pulsar_bus import check_service_url, close_aside
from outbox_projector.flights import Flight, FlightRefused, LeaseLost

MOST_BYTES = 4 << 20
"""Of a flight of several rows. Below the broker's default limit for an entry (5 MiB), so that what is refused here is
cut without asking; where the broker's limit is lower, it refuses and the flight is cut then."""

ROW_OVERHEAD = 128
"""Bytes that a message takes in a batch beside its payload, key and properties; generous, as the 8 of each property."""

_NEVER_CUT = {
    "batching_enabled": True,
    "batching_max_messages": 20_000,  # the largest batch_size is 10,000
    "batching_max_allowed_size_in_bytes": 2 * MOST_BYTES,
    "batching_max_publish_delay_ms": 60_000,  # flush sends it
    "max_pending_messages": 20_000,
    "block_if_queue_full": True,
    "send_timeout_millis": 0,
}

_UNSURE = {"BrokerMetadataError", "BrokerPersistenceError", "UnknownError"}
"""Answers after which the broker may have stored the flight all the same: refused and claimed anew, it would be stored
twice. It is sent again under the same ids."""

_PASSING = {"MemoryBufferIsFull", "ProducerBusy", "ProducerQueueIsFull"}
"""Answers about us, not about the topic or the rows. ProducerBusy: a connection of our own is not quite closed yet."""

_NEVER_A_REFUSAL = _UNSURE | _PASSING


class PulsarLanePublisher:
    """Opens the producers of one lane, all with the same name."""

    def __init__(
        self,
        service_url: str,
        *,
        producer_name: str,
        lane: int = 0,
        configured_topic: str | None = None,
        timeout_seconds: float = 10,
    ) -> None:
        """No connection is made yet.

        producer_name: of this lane for ever, and of no other lane; a new name would be sent everything again.
        lane: from 0; it takes the partition of this number.
        configured_topic: trouble with it is an outage; any other topic was chosen by rows, and they are refused.
        timeout_seconds: for a connection, a lookup, and from a flight to the broker's answer.
        """
        self._service_url = check_service_url(service_url)
        self._producer_name = producer_name
        self._lane = lane
        self._configured_topic = configured_topic
        self._timeout = timeout_seconds
        self._client: Any = None  # the client has no types

    async def open(self, topic: str) -> PulsarLaneProducer:
        """The producer, with what the broker has of this lane. Raises BusUnavailable, FlightRefused."""
        if not topic.rpartition("/")[2].strip():
            # The client would ask again and again until it times out, as if the broker were away.
            raise FlightRefused(Refusal(f"{PERMANENT['InvalidTopicName']}: {topic!r}", permanent=True))
        try:
            producer = await asyncio.to_thread(self._open, topic)
        except pulsar.PulsarException as error:
            raise self._trouble(type(error).__name__, topic) from error
        return PulsarLaneProducer(producer, topic, self._timeout, self._trouble)

    async def close(self) -> None:
        """On a thread of its own: after an outage it may take long."""
        client, self._client = self._client, None
        if client is not None:
            close_aside(client)

    def _open(self, topic: str) -> pulsar.Producer:
        if self._client is None:
            self._client = pulsar.Client(
                self._service_url,
                operation_timeout_seconds=max(1, round(self._timeout)),
                connection_timeout_ms=max(1000, round(self._timeout * 1000)),
                logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
            )
        client = self._client  # `close` may come while this thread waits
        partitions = client.get_topic_partitions(topic)
        if self._lane >= len(partitions):
            raise self._fault(
                topic,
                BusUnavailable(
                    f"lane {self._lane} needs a partition of its own, but topic {topic} has {len(partitions)}: "
                    f"add partitions, or set fewer lanes",
                    reason="BrokerRefused",
                ),
            )
        return client.create_producer(
            partitions[self._lane],
            producer_name=self._producer_name,
            access_mode=pulsar.ProducerAccessMode.ExclusiveWithFencing,
            **_NEVER_CUT,
        )

    def _trouble(self, result: str, topic: str) -> BusUnavailable | FlightRefused | LeaseLost:
        """What an answer other than Ok means."""
        if result == "ProducerFenced":
            return LeaseLost(f"another producer has taken over {topic}")
        if result in PERMANENT:
            return FlightRefused(Refusal(PERMANENT[result], permanent=True))
        return self._fault(topic, unavailable(self._service_url, result, topic), result)

    def _fault(self, topic: str, error: BusUnavailable, result: str = "") -> BusUnavailable | FlightRefused:
        if result not in _NEVER_A_REFUSAL and topic != self._configured_topic and is_topics_fault(error):
            return FlightRefused(Refusal(str(error)))
        return error


class PulsarLaneProducer:
    """One lane's producer on one topic or partition."""

    def __init__(
        self,
        producer: pulsar.Producer,
        topic: str,
        timeout_seconds: float,
        trouble: Callable[[str, str], Exception],
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._timeout = timeout_seconds
        self._trouble = trouble
        # Right on a new connection only; -1 stands for none.
        self._last_sequence: int = max(0, producer.last_sequence_id())

    @property
    def last_sequence(self) -> int:
        return self._last_sequence

    async def publish(self, flight: Flight) -> bool:
        """Whether the broker stored it now. Raises BusUnavailable, FlightRefused, LeaseLost."""
        messages = [message_of(event) for event in flight.events]
        _check(messages)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[str, bool]] = loop.create_future()
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.to_thread(self._send, messages, flight.first_sequence, partial(_hop, loop, answer))
                result, new = await answer
        except TimeoutError:
            raise self._trouble("Timeout", self._topic) from None
        except pulsar.PulsarException as error:
            raise self._trouble(type(error).__name__, self._topic) from error
        if result == "Ok":
            return new
        if result in _NEVER_A_REFUSAL or result in OUTAGES or result in PERMANENT:
            raise self._trouble(result, self._topic)
        raise FlightRefused(Refusal(f"the broker answered {result}"))

    def _send(
        self, messages: list[Message], first_sequence: int, answered: Callable[[pulsar.Result, Any], None]
    ) -> None:
        """Only the last message has a callback: all share one fate, and a callback each would cost a lot of CPU."""
        last = len(messages) - 1
        for number, message in enumerate(messages):
            self._producer.send_async(
                message.payload,
                answered if number == last else None,
                partition_key=message.key,
                properties=message.properties,
                event_timestamp=message.event_time,
                sequence_id=first_sequence + number,
            )
        # What flush raises is the answer of the last message too, which says more.
        with contextlib.suppress(pulsar.PulsarException):
            self._producer.flush()


def _check(messages: list[Message]) -> None:
    """Raises FlightRefused before anything is sent: what is in the client's batch cannot be taken back."""
    try:
        size = sum(message.size + ROW_OVERHEAD + 8 * len(message.properties) for message in messages)
    except UnicodeEncodeError as error:
        raise FlightRefused(Refusal(f"the message cannot be encoded: {error}", permanent=True)) from error
    if len(messages) > 1 and size > MOST_BYTES:
        raise FlightRefused(Refusal(f"the batch is larger than {MOST_BYTES} bytes"))


def _hop(
    loop: asyncio.AbstractEventLoop,
    answer: asyncio.Future[tuple[str, bool]],
    result: pulsar.Result,
    message_id: Any,
) -> None:
    """Runs on a thread of the client, where an exception would end the process; the loop may be closed already."""
    # A duplicate is answered with Ok, but was stored nowhere: the ledger of its message id is -1.
    new = message_id is None or message_id.ledger_id() != -1
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(_settle, answer, (result.name, new))


def _settle(answer: asyncio.Future[tuple[str, bool]], outcome: tuple[str, bool]) -> None:
    if not answer.done():
        answer.set_result(outcome)
