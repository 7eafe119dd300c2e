"""A topic of the real broker, read from its beginning to its end; and the namespaces it lies in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pulsar

RECEIVE_TIMEOUT_MILLISECONDS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One message as a consumer gets it. event_time: in milliseconds since 1970; 0: none. entry: where it is stored."""

    payload: bytes
    key: str
    properties: dict[str, str]
    event_time: int
    entry: tuple[int, int]

    @property
    def event_id(self) -> str:
        return self.properties["event_id"]


class Topics:
    """Reads topics. One client for the session: a connection for each test would be most of its time."""

    def __init__(self, service_url: str) -> None:
        self._client = pulsar.Client(service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))

    async def exactly(self, count: int, topic: str) -> list[Received]:
        """The first `count` messages of the topic, after which there must be no more."""
        return await asyncio.to_thread(self._read, count, topic)

    def distinct(self, topic: str) -> set[str]:
        """The ids of all events on the topic, each once however often it is there."""
        reader = self._client.create_reader(topic, pulsar.MessageId.earliest)
        try:
            found = set()
            while reader.has_message_available():
                found.add(_received(reader.read_next(RECEIVE_TIMEOUT_MILLISECONDS)).event_id)
            return found
        finally:
            reader.close()

    @contextlib.contextmanager
    def producer(self, topic: str, **options: Any) -> Iterator[pulsar.Producer]:
        """A producer of the test's own, that batches until it is flushed."""
        usual = {"batching_enabled": True, "batching_max_publish_delay_ms": 60_000}
        producer = self._client.create_producer(topic, **(usual | options))
        try:
            yield producer
        finally:
            producer.close()

    @contextlib.contextmanager
    def key_shared(self, topic: str, *, consumers: int) -> Iterator[queue.Queue[tuple[int, Received]]]:
        """What consumers of one Key_Shared subscription get, each with the consumer's number, as it comes."""
        arrived: queue.Queue[tuple[int, Received]] = queue.Queue()

        def listener(number: int) -> Callable[[pulsar.Consumer, pulsar.Message], None]:
            def take(consumer: pulsar.Consumer, message: pulsar.Message) -> None:
                arrived.put((number, _received(message)))
                consumer.acknowledge(message)

            return take

        subscribed = [
            self._client.subscribe(
                topic, "shared", consumer_type=pulsar.ConsumerType.KeyShared, message_listener=listener(number)
            )
            for number in range(consumers)
        ]
        try:
            yield arrived
        finally:
            for consumer in subscribed:
                consumer.close()

    async def close(self) -> None:
        await asyncio.to_thread(self._client.close)

    def _read(self, count: int, topic: str) -> list[Received]:
        reader = self._client.create_reader(topic, pulsar.MessageId.earliest)
        try:
            messages = [_received(reader.read_next(RECEIVE_TIMEOUT_MILLISECONDS)) for _ in range(count)]
            # The broker is asked for the last message of the topic, so this needs no waiting for what might come.
            surplus = []
            while reader.has_message_available():
                surplus.append(_received(reader.read_next(RECEIVE_TIMEOUT_MILLISECONDS)))
            assert not surplus, f"{len(surplus)} messages more than the {count} expected, the first: {surplus[0]}"
            return messages
        finally:
            reader.close()


def _received(message: pulsar.Message) -> Received:
    return Received(
        payload=message.data(),
        key=message.partition_key(),
        properties=dict(message.properties()),
        event_time=message.event_timestamp(),
        entry=(message.message_id().ledger_id(), message.message_id().entry_id()),
    )


class Namespaces:
    """Pulsar's admin API, as far as tests need it."""

    def __init__(self, admin_url: str, http: aiohttp.ClientSession) -> None:
        self._admin_url = admin_url
        self._http = http

    async def create(self, namespace: str) -> None:
        await self._call("PUT", f"namespaces/{namespace}")

    async def delete(self, namespace: str) -> None:
        """With all that is in it."""
        await self._call("DELETE", f"namespaces/{namespace}?force=true")

    async def set(self, namespace: str, policy: str, value: object) -> None:
        """Sets a policy, such as `maxTopicsPerNamespace`."""
        await self._call("POST", f"namespaces/{namespace}/{policy}", value)

    async def partition(self, topic: str, partitions: int) -> None:
        """Makes a partitioned topic."""
        await self._call("PUT", f"{topic.replace('://', '/')}/partitions", partitions)

    async def terminate(self, topic: str) -> None:
        """Nothing can be published to the topic any more."""
        await self._call("POST", f"{topic.replace('://', '/')}/terminate")

    async def bytes_stored(self, topic: str) -> int:
        """What the topic's entries take."""
        stats = await self._call("GET", f"{topic.replace('://', '/')}/internalStats")
        return int(json.loads(stats)["totalSize"])

    async def delete_topic(self, topic: str) -> None:
        """With its producers disconnected."""
        await self._call("DELETE", f"{topic.replace('://', '/')}?force=true")

    async def _call(self, method: str, path: str, body: object = None) -> str:
        request = self._http.request(
            method,
            f"{self._admin_url}/admin/v2/{path}",
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json"},
        )
        async with request as response:
            answer = await response.text()
            assert response.status < 300, f"{method} {path}: {response.status} {answer}"
            return answer
