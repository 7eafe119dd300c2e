"""Pulsar as one lane sees it: each flight is one batch, which the broker stores once, as one entry; or one a key.

The broker deduplicates by producer name and topic: what has no higher sequence id than it has seen is dropped. The
client writes only the first id of a batch, so a flight must never be cut otherwise than before: it says itself how it
is cut, limits of the client that would cut it lie above every flight that is sent, and a flight above ours is refused
before anything is sent.

A lane has its topic (or its partition of it) to itself: opening a producer fences every other one there, whatever its
name. So a lane without a partition of its own gets no producer. Partitions are addressed one by one, since the client's
flush of a partitioned producer reports on the last partition only.

Without a name a producer shares its topic, which has no partitions then, and the broker knows nothing of its ids from
an earlier connection: at least once (`at_least_once.py`).

Sending does not time out by itself (`send_timeout_millis=0`): a message that the client gave up may still be stored.
Our own clock ends the wait, and with it the client; the flight stays open and is sent again under the same ids.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pulsar

from bento_outbox import BusUnavailable, Envelope, EventsRefused, Refusal
from bento_outbox.message_form import Message, message_of
from bento_outbox.pulsar_answers import OUTAGES, PERMANENT, is_topics_fault
from bento_outbox.pulsar_client import Batching, Compression, PulsarConnection, close_aside, producer_options
from bento_outbox.pulsar_messages import Answers, Callback, sender
from outbox_projector.flights import Flight, FlightRefused, LeaseLost, NoPartition
from outbox_projector.pulsar_flight import MOST_BYTES, Entry, built_all, entries_of
from outbox_projector.topics import is_partition

_NEVER_CUT = {
    "batching_enabled": True,
    "batching_max_messages": 20_000,  # the largest batch_size is 10,000
    "batching_max_allowed_size_in_bytes": 2 * MOST_BYTES,
    "batching_max_publish_delay_ms": 60_000,  # flush sends it
    "max_pending_messages": 20_000,
    "block_if_queue_full": True,
    "send_timeout_millis": 0,
}

_UNSURE = {*OUTAGES, "TopicNotFound", "UnknownError"}
"""Answers after which the broker may have stored the flight all the same, such as a quota that is met when a broken
connection is made anew: refused and claimed anew, it would be stored twice. It is sent again under the same ids."""

_NOBODYS_FAULT = {
    *("BrokerMetadataError", "BrokerPersistenceError", "UnknownError"),
    *("MemoryBufferIsFull", "ProducerQueueIsFull"),
}
"""Answers to opening a topic that are about the broker or about us."""

CLOSE_SECONDS = 1.0
"""A client takes some milliseconds to close."""


class TopicIsPartitioned(BusUnavailable):
    """A flight cannot be one batch there: the client would spread it over the partitions, each with an answer."""


def _exclusive(producer_name: str) -> dict[str, Any]:
    return {"producer_name": producer_name, "access_mode": pulsar.ProducerAccessMode.ExclusiveWithFencing}


class PulsarLanePublisher:
    """Opens the producers of one lane, all with the same name."""

    def __init__(
        self,
        connection: str | PulsarConnection,
        *,
        producer_name: str | None,
        lane: int = 0,
        configured_topic: str | None = None,
        timeout_seconds: float = 10,
        compression: Compression = "None",
        batching: Batching = "Default",
        message_of: Callable[[Envelope], Message] = message_of,
    ) -> None:
        """No connection is made yet.

        producer_name: of this lane for ever, and of no other lane; a new name would be sent everything again. Topics
            are given by their full names: a topic of two names would have two sequences of ids, and the broker one.
            None: a topic without partitions is shared with any other producer, and nothing is deduplicated.
        lane: from 0; it takes the partition of this number.
        configured_topic: trouble with it is an outage; any other topic was chosen by rows, and they are refused.
        timeout_seconds: for a connection, a lookup, and from a flight to the broker's answer.
        batching: of most flights; one that an earlier owner has cut otherwise takes another producer.
        message_of: the form of messages.
        """
        self._connection = PulsarConnection.of(connection)
        self._producer_name = producer_name
        self._lane = lane
        self._configured_topic = configured_topic
        self._timeout = timeout_seconds
        self._compression = compression
        self._message_of = message_of
        self._by_key = batching == "KeyBased"
        self._client: Any = None  # the client has no types

    async def open(self, topic: str) -> PulsarLaneProducer:
        """The producer, with what the broker has of this lane. Raises BusUnavailable, FlightRefused.

        TopicIsPartitioned: it cannot be shared.
        """
        if not topic.rpartition("/")[2].strip():
            # The client would ask again and again until it times out, as if the broker were away.
            raise FlightRefused(Refusal(f"{PERMANENT['InvalidTopicName']}: {topic!r}", permanent=True))
        try:
            producer = await asyncio.to_thread(self._open, topic, self._by_key)
        except pulsar.PulsarException as error:
            raise self._trouble(type(error).__name__, topic) from error
        return PulsarLaneProducer(
            producer,
            topic,
            self._timeout,
            self._unsure,
            message_of=self._message_of,
            by_key=self._by_key,
            reopen=partial(self._reopen, topic),
        )

    async def close(self) -> None:
        """Waits only a moment: after an outage it may take long. A process that ends in the middle of it is aborted."""
        client, self._client = self._client, None
        if client is not None:
            await asyncio.to_thread(close_aside(client).join, CLOSE_SECONDS)

    def _reopen(self, topic: str, producer: pulsar.Producer, by_key: bool) -> pulsar.Producer:
        producer.close()
        return self._open(topic, by_key)

    def _open(self, topic: str, by_key: bool) -> pulsar.Producer:
        if self._client is None:
            self._client = self._connection.client(self._timeout)
        client = self._client  # `close` may come while this thread waits
        if self._producer_name is None:
            place, right = self._shared_place(client, topic), {}
        else:
            place, right = self._own_place(client, topic), _exclusive(self._producer_name)
        options = producer_options(self._compression, "KeyBased" if by_key else "Default")
        return client.create_producer(place, **right, **options, **_NEVER_CUT)

    def _shared_place(self, client: pulsar.Client, topic: str) -> str:
        first, *others = client.get_topic_partitions(topic)
        if others or (is_partition(first) and not is_partition(topic)):
            raise TopicIsPartitioned(f"topic {topic} has partitions", reason="BrokerRefused")
        return topic

    def _own_place(self, client: pulsar.Client, topic: str) -> str:
        """The topic, or the lane's partition of it."""
        if is_partition(topic):
            sentence = f"topic {topic} is a single partition: name the topic, of which each lane has its own partition"
            raise self._fault(topic, BusUnavailable(sentence, reason="BrokerRefused"))
        partitions = client.get_topic_partitions(topic)
        if self._lane >= len(partitions):
            raise self._fault(
                topic,
                NoPartition(
                    f"lane {self._lane} needs a partition of its own, but topic {topic} has {len(partitions)}: "
                    f"add partitions, or set fewer lanes",
                    reason="BrokerRefused",
                ),
            )
        name: str = partitions[self._lane]
        return name

    def _trouble(self, result: str, topic: str) -> BusUnavailable | FlightRefused | LeaseLost:
        """What it means that a topic cannot be opened."""
        if result in PERMANENT:
            return FlightRefused(Refusal(PERMANENT[result], permanent=True))
        error = self._unsure(result, topic)
        return error if isinstance(error, LeaseLost) else self._fault(topic, error, result)

    def _unsure(self, result: str, topic: str) -> BusUnavailable | LeaseLost:
        """What it means that nobody can tell whether a flight is stored. Whose fault it is shows when it is sent again:
        a topic that rows chose and that is closed to us cannot be opened."""
        if result == "ProducerFenced" and self._producer_name is not None:
            return LeaseLost(f"another producer has taken over {topic}")
        return self._connection.unavailable(result, topic)

    def _fault(self, topic: str, error: BusUnavailable, result: str = "") -> BusUnavailable | FlightRefused:
        # With a name of our own ProducerBusy means that a former connection of ours is not quite closed yet.
        passing = result in _NOBODYS_FAULT or (result == "ProducerBusy" and self._producer_name is not None)
        if not passing and topic != self._configured_topic and is_topics_fault(result):
            return FlightRefused(Refusal(str(error)))
        return error


class PulsarLaneProducer:
    """One lane's producer on one topic or partition."""

    def __init__(
        self,
        producer: pulsar.Producer,
        topic: str,
        timeout_seconds: float,
        unsure: Callable[[str, str], Exception],
        *,
        message_of: Callable[[Envelope], Message] = message_of,
        by_key: bool,
        reopen: Callable[[pulsar.Producer, bool], pulsar.Producer],
    ) -> None:
        """unsure: what an answer means that does not tell whether the flight is stored. by_key: how `producer` cuts
        flights. reopen: makes one that cuts as it is told, in place of the former.
        """
        self._producer = producer
        self._topic = topic
        self._timeout = timeout_seconds
        self._unsure = unsure
        self._message_of = message_of
        self._by_key = by_key
        self._reopen = reopen
        # Right on a new connection only; -1 stands for none.
        self._last_sequence: int = max(0, producer.last_sequence_id())
        self._used = self._last_sequence
        self._most_bytes = MOST_BYTES

    @property
    def last_sequence(self) -> int:
        return self._last_sequence

    async def publish(self, flight: Flight) -> bool:
        """Whether the broker stored all of it now. Raises BusUnavailable, EventsRefused, FlightRefused, LeaseLost."""
        # A limit that was learned must not refuse what was sent, and perhaps stored, before it was known.
        if flight.size > self._most_bytes and len(flight.events) > 1 and not flight.recovered:
            raise FlightRefused(Refusal(f"the batch is larger than {self._most_bytes} bytes"))
        entries = entries_of(flight)
        answers = Answers(len(entries))
        # All messages of an entry share one fate, that of its last.
        callbacks = {entry[-1]: answers.callback(entry[0]) for entry in entries}
        used, self._used = self._used, max(self._used, flight.last_sequence)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.to_thread(self._send, flight, callbacks)
                found = await answers.all()
        except TimeoutError:
            raise self._unsure("Timeout", self._topic) from None
        except pulsar.PulsarException as error:
            raise self._unsure(type(error).__name__, self._topic) from error
        refused = self._refused(found)
        # Ids that nobody has used before can only be stored already if a broken connection made the client send them
        # twice: then the second answer speaks of the first.
        stored = all(
            new or flight.first_sequence + first > used for first, (_, new) in found.items() if first not in refused
        )
        if refused and (stored or flight.recovered):
            if any(refusal.permanent for refusal in refused.values()):
                self._most_bytes = min(self._most_bytes, flight.size // 2)
            raise _refusal(flight, entries, refused)
        return stored

    def _send(self, flight: Flight, callbacks: Mapping[int, Callback]) -> None:
        messages = built_all(map(self._message_of, flight.events), flight.first_sequence)
        if flight.by_key != self._by_key:
            # Cut in another way it would be stored in part or twice.
            self._producer = self._reopen(self._producer, flight.by_key)
            self._by_key = flight.by_key
        send = sender(self._producer)
        for place, message in enumerate(messages):
            send(message, callbacks.get(place))
        # What flush raises is one of the answers too, each of which says more.
        with contextlib.suppress(pulsar.PulsarException):
            self._producer.flush()

    def _refused(self, found: Mapping[int, tuple[str, bool]]) -> dict[int, Refusal]:
        """The refusals, by the first place of each entry. Raises LeaseLost, BusUnavailable."""
        refused: dict[int, Refusal] = {}
        for first, (result, _) in sorted(found.items(), key=lambda item: item[1][0] != "ProducerFenced"):
            if result in _UNSURE:
                raise self._unsure(result, self._topic)
            if result in PERMANENT:
                refused[first] = Refusal(PERMANENT[result], permanent=True)
            elif result != "Ok":
                refused[first] = Refusal(f"the broker answered {result}")
        return refused


def _refusal(flight: Flight, entries: Sequence[Entry], refused: Mapping[int, Refusal]) -> FlightRefused | EventsRefused:
    """Of the whole flight, which the lane then cuts; or of some entries: whoever shared one may pass in another."""
    if len(refused) == len(entries):
        return FlightRefused(next(iter(refused.values())))
    return EventsRefused(
        {
            flight.events[place].id: replace(
                refused[entry[0]], permanent=refused[entry[0]].permanent and len(entry) == 1
            )
            for entry in entries
            if entry[0] in refused
            for place in entry
        }
    )
