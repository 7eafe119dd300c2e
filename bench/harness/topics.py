"""Topics of a benchmark's own, what arrives on them, and how fast."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

import httpx
import pulsar

from bench.harness.errors import BenchError
from bench.harness.process import Measured

LOOK_SECONDS = 0.1
"""Between two looks at the broker's counters, each of which costs it some milliseconds of CPU."""
STALLED_SECONDS = 60
"""Without a single new message a drain is given up."""


@dataclass(frozen=True, slots=True)
class Drain:
    """From the first message seen on the topic to the last: the start of whoever publishes is not in it."""

    messages: int
    seconds: float
    cpu_seconds: float
    """Of the process that publishes, all its threads."""

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.messages / self.seconds

    @property
    def cpu_microseconds(self) -> float:
        """For each message. Unlike the rate it hardly depends on what else the machine does."""
        return self.cpu_seconds / self.messages * 1e6


class Topic:
    """One topic, counted by the broker."""

    def __init__(self, name: str, admin: httpx.Client, *, partitions: int = 0) -> None:
        self.name = name
        self._admin = admin
        self._path = name.replace("://", "/")
        self._partitions = f"{self._path}/partitions" if partitions else ""
        self._statistics = f"{self._path}/partitioned-stats?perPartition=false" if partitions else f"{self._path}/stats"
        if partitions:
            admin.put(self._partitions, json=partitions).raise_for_status()

    def count(self) -> int:
        """Messages that the broker has taken since the topic was made."""
        answer = self._admin.get(self._statistics)
        return (
            0 if answer.status_code == httpx.codes.NOT_FOUND else int(answer.raise_for_status().json()["msgInCounter"])
        )

    def drained_by(self, process: Measured, messages: int, *, after: int = 0) -> Drain:
        """Waits until the broker has counted so many, not counting the first `after`. Raises BenchError when the
        process ends, or gets no further."""
        first: tuple[int, float, float] | None = None
        seen, moved = 0, time.monotonic()
        while True:
            now, count = time.monotonic(), self.count() - after
            if count > seen:
                seen, moved = count, now
                first = first or (count, now, process.cpu_seconds())
            if first and (count >= messages):
                # All at once: it took no longer than one look.
                seconds = max(LOOK_SECONDS, now - first[1])
                return Drain(max(1, count - first[0]), seconds, process.cpu_seconds() - first[2])
            process.check()
            if now - moved > STALLED_SECONDS:
                raise BenchError(f"only {count} of {messages} messages arrived on {self.name}")
            time.sleep(LOOK_SECONDS)

    def verify(self, events: int, *, identity: str = "event_id") -> None:
        """Reads all of it. identity: the property that holds the id of the event. Raises BenchError if one is missing
        or there twice."""
        client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        try:
            reader = client.create_reader(self.name, pulsar.MessageId.earliest, receiver_queue_size=10_000)
            ids = []
            while reader.has_message_available():
                ids.append(reader.read_next(20_000).properties()[identity])
        finally:
            client.close()
        if (distinct := len(set(ids))) != events or len(ids) != events:
            raise BenchError(f"{self.name} holds {distinct} events in {len(ids)} messages, not {events} once each")

    def delete(self) -> None:
        """With all that is in it."""
        self._admin.delete(
            f"{self._path}{'/partitions' if '/partitioned-stats' in self._statistics else ''}?force=true"
        )


class Namespace:
    """Keeps everything that is published, though nobody subscribes."""

    def __init__(self, name: str, admin: httpx.Client) -> None:
        self.name = name
        self._admin = admin

    @contextmanager
    def topic(self, *, partitions: int = 0) -> Iterator[Topic]:
        """A new one, deleted afterwards: some hundred MB of disk."""
        topic = Topic(f"persistent://{self.name}/{uuid4().hex[:12]}", self._admin, partitions=partitions)
        try:
            yield topic
        finally:
            topic.delete()


@contextmanager
def own_namespace(*, deduplication: bool) -> Iterator[Namespace]:
    """Deleted afterwards."""
    name = f"public/bench-{uuid4().hex[:12]}"
    with httpx.Client(base_url=f"{os.environ['PULSAR_ADMIN_URL']}/admin/v2/", timeout=60) as admin:
        admin.put(f"namespaces/{name}", json={}).raise_for_status()
        forever = {"retentionTimeInMinutes": -1, "retentionSizeInMB": -1}
        admin.post(f"namespaces/{name}/retention", json=forever).raise_for_status()
        admin.post(f"namespaces/{name}/deduplication", json=deduplication).raise_for_status()
        try:
            yield Namespace(name, admin)
        finally:
            admin.delete(f"namespaces/{name}?force=true")
