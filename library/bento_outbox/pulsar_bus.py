"""Apache Pulsar as a message bus. Beside it `pulsar_client`, `pulsar_messages` and the projector's `pulsar_lane`
import the client.

One producer per topic, made when it is first needed. The client's calls block, so they run in a worker thread.

At least once: an event that was sent again after a lost answer is stored twice, with the same `event_id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import string
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any
from uuid import UUID

try:
    import pulsar
except ImportError as error:  # the package called pulsar is another one
    raise ImportError(f"{error}: the Pulsar client is installed by pip install 'bento-outbox[pulsar]'") from error

from bento_outbox.bus import as_list
from bento_outbox.cloudevents import check_source
from bento_outbox.envelope import Envelope
from bento_outbox.errors import BusUnavailable, EventsRefused, MisuseError, Refusal
from bento_outbox.message_form import message_of
from bento_outbox.pulsar_answers import NOT_ENCODABLE, OUTAGES, PERMANENT, is_topics_fault
from bento_outbox.pulsar_client import Batching, Compression, PulsarConnection, close_aside, producer_options
from bento_outbox.pulsar_messages import Answers, built, sender

DEFAULT_TOPIC = "persistent://public/default/outbox-{tenant}"
PLACEHOLDERS = frozenset({"tenant", "type"})
_ENDS_A_CLIENT = {"BrokerUnreachable", "BrokerAuthenticationFailed"}
_TOPIC_CLOSED = {
    "AuthorizationError",
    "ProducerBlockedQuotaExceededError",
    "ProducerBlockedQuotaExceededException",
    "ProducerFenced",
    "TopicTerminated",
}
"""Answers to a send after which the topic takes nothing from us any more, while others may."""


def check_topic_template(template: str) -> str:
    """The template, when it is one: `persistent://tenant/namespace/name` with {tenant} and {type} as placeholders.

    Raises MisuseError.
    """
    try:
        used = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise MisuseError(f"topic {template!r} is not a template: {error}") from error
    for name, form, conversion in used:
        if name not in PLACEHOLDERS:
            raise MisuseError(f"topic {template!r} has the unknown placeholder {{{name}}}: use {{tenant}} or {{type}}")
        if form or conversion:
            raise MisuseError(f"topic {template!r} says how to format {name}: write {{{name}}} alone")
    return template


class PulsarMessageBus:
    """Publishes envelopes to Pulsar, each as one message of the form that `message_form` tells."""

    def __init__(
        self,
        connection: str | PulsarConnection,
        *,
        topic: str = DEFAULT_TOPIC,
        timeout_seconds: int = 10,
        compression: Compression = "None",
        batching: Batching = "Default",
        cloudevents_source: str | None = None,
        lookup_only: bool = False,
    ) -> None:
        """No connection is made yet.

        connection: `pulsar://host:6650`, or one with credentials. topic: template, see `check_topic_template`.
        timeout_seconds: for a connection, a lookup, and from send to the broker's answer.
        cloudevents_source: makes messages CloudEvents, see `cloudevents.check_source`.
        lookup_only: `check` makes no producer, for one that owns the topic would be in its way.
        """
        self._connection = PulsarConnection.of(connection)
        self._topic = check_topic_template(topic)
        self._timeout = timeout_seconds
        self._message_of = partial(
            message_of, cloudevents_source=cloudevents_source and check_source(cloudevents_source)
        )
        self._options = producer_options(compression, batching)
        self._lookup_only = lookup_only
        self._client: Any = None  # the client has no types
        self._producers: dict[str, pulsar.Producer] = {}
        self._calls = asyncio.Lock()  # a producer is made once, also when `check` and `publish` meet

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        by_topic: dict[str, list[Envelope]] = {}
        for event in as_list(events):
            by_topic.setdefault(self._topic_of(event), []).append(event)
        stored: set[UUID] = set()
        refused: dict[UUID, Refusal] = {}
        with self._connected():
            for topic, group in by_topic.items():
                await self._publish_to(topic, group, stored, refused)
        if refused:
            raise EventsRefused(refused)

    async def check(self, tenant_id: str) -> None:
        """Asks the broker for the topic; where the topic depends on the type, for one of that form."""
        topic = self._topic.format(tenant=tenant_id, type="check")
        with self._connected() as client:
            await self._call(client.get_topic_partitions, topic, topic=topic)
            if "{type}" not in self._topic and not self._lookup_only:
                producer = await self._producer(topic)
                if not producer.is_connected():
                    raise self._unavailable("Disconnected", topic)

    async def close(self) -> None:
        client, self._client = self._client, None
        self._producers.clear()
        if client is not None:
            await asyncio.to_thread(client.close)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[pulsar.Client]:
        """The client. Dropped when it cannot reach the broker, since its own reconnect backs off up to a minute, and
        when it is refused, since it may have read its credentials only once."""
        client = self._connect()
        try:
            yield client
        except BusUnavailable as outage:
            if outage.reason in _ENDS_A_CLIENT and self._client is client:
                self._client = None
                self._producers.clear()
                close_aside(client)
            raise

    def _topic_of(self, event: Envelope) -> str:
        return event.topic or self._topic.format(tenant=event.tenant_id, type=event.type)

    def _is_chosen(self, group: list[Envelope]) -> bool:
        """A topic that rows chose, by `topic` or by their type, must not stop the rows that chose another."""
        return any(event.topic is not None for event in group) or "{type}" in self._topic

    def _connect(self) -> pulsar.Client:
        if self._client is None:
            self._client = self._connection.client(self._timeout)
        return self._client

    async def _producer(self, topic: str) -> pulsar.Producer:
        async with self._calls:
            known = self._producers.get(topic)
            if known is None:
                create = partial(
                    self._connect().create_producer,
                    batching_enabled=True,
                    batching_max_publish_delay_ms=5,
                    block_if_queue_full=True,
                    send_timeout_millis=self._timeout * 1000,
                    **self._options,
                )
                known = self._producers[topic] = await self._call(create, topic, topic=topic)
        return known

    async def _call(self, function: Any, *arguments: Any, topic: str) -> Any:
        try:
            return await asyncio.to_thread(function, *arguments)
        except pulsar.PulsarException as error:
            raise self._unavailable(type(error).__name__, topic) from error

    async def _publish_to(
        self, topic: str, events: list[Envelope], stored: set[UUID], refused: dict[UUID, Refusal]
    ) -> None:
        if not topic.rpartition("/")[2].strip():
            # The client would ask again and again until it times out, as if the broker were away.
            blank = Refusal(f"{PERMANENT['InvalidTopicName']}: {topic!r}", permanent=True)
            refused |= dict.fromkeys((event.id for event in events), blank)
            return
        try:
            producer = await self._producer(topic)
        except BusUnavailable as error:
            result = type(error.__cause__).__name__
            if not (self._is_chosen(events) and is_topics_fault(result)):
                raise BusUnavailable(str(error), reason=error.reason, stored=stored) from error
            refused |= {event.id: Refusal(str(error), permanent=result in PERMANENT) for event in events}
        else:
            await self._send(topic, producer, events, stored, refused)

    async def _send(
        self,
        topic: str,
        producer: pulsar.Producer,
        events: list[Envelope],
        stored: set[UUID],
        refused: dict[UUID, Refusal],
    ) -> None:
        answers = Answers(len(events))

        def send_all() -> None:
            send = sender(producer)
            for place, event in enumerate(events):
                try:
                    message = built(self._message_of(event))
                except UnicodeEncodeError:
                    answers.take(place, NOT_ENCODABLE, stored=False)
                    continue
                send(message, answers.callback(place))
            # What flush raises is one of the failures; each event's own answer says more.
            with contextlib.suppress(pulsar.PulsarException):
                producer.flush()

        await asyncio.to_thread(send_all)
        # A client that is closed meanwhile leaves some sends without an answer.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await answers.all()
        outage, chosen = "", self._is_chosen(events)
        for place, event in enumerate(events):
            result, _ = answers.by_place.get(place, ("Timeout", False))
            if result in _TOPIC_CLOSED and self._producers.get(topic) is producer:
                del self._producers[topic]  # it would answer so for ever, also when the topic is open again
            if result == "Ok":
                stored.add(event.id)
            elif result in PERMANENT:
                refused[event.id] = Refusal(PERMANENT[result], permanent=True)
            elif result in _TOPIC_CLOSED and chosen:
                refused[event.id] = Refusal(str(self._unavailable(result, topic)))
            elif result in OUTAGES:
                outage = result
            else:
                refused[event.id] = Refusal(f"the broker answered {result}")
        if outage:
            error = self._unavailable(outage, topic)
            raise BusUnavailable(str(error), reason=error.reason, stored=stored)

    def _unavailable(self, result: str, topic: str) -> BusUnavailable:
        return self._connection.unavailable(result, topic)
