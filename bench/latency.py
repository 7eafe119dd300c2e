"""How long after its commit an event is at a consumer, at three steady rates.

A process of its own commits events one by one, at the highest rate ten in a commit, and wakes projectors as the library
does. Each event is timed from the moment at which the writer has the answer to its COMMIT to the moment at which a
reader of the topic has the message; both clocks are the machine's monotonic one. The first two seconds at each rate are
left out. Without a suffix the figures are those at 500 events a second.

    debezium        Debezium Server as it comes, after 30,000 other events
    debezium_tuned  the same with poll.interval.ms=5
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pulsar

from bench.figures import Figures
from bench.harness import debezium
from bench.harness.database import TENANT, Database, own_database
from bench.harness.projector import projector
from bench.harness.topics import Namespace, Topic, own_namespace

PARTS = ("postgres", "pulsar")
prepare = debezium.prepare
RATES = (50, 500, 5000)
MAIN_RATE = 500
WARM_UP_ROWS = 30_000
SKIPPED_SECONDS = 2
PERCENTILES = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
GOALS = {"p50_ms": "≤ 8", "p99_ms": "≤ 40"}


def run(*, smoke: bool) -> Figures:
    """The figures."""
    with (
        own_database() as database,
        own_namespace(deduplication=True) as namespace,
        own_namespace(deduplication=False) as plain,
    ):
        bench = _Bench(database, namespace, plain, seconds=1 if smoke else 20, warm_up=100 if smoke else WARM_UP_ROWS)
        with_debezium = debezium.taken_along(smoke=smoke)
        for _ in range(1 if smoke else 3):
            bench.ours()
            if with_debezium:
                bench.debezium("debezium", {})
                bench.debezium("debezium_tuned", debezium.TUNED)
        return bench.figures()


@dataclass
class _Bench:
    database: Database
    namespace: Namespace
    plain: Namespace
    seconds: int
    warm_up: int
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def ours(self) -> None:
        """All rates with one projector."""
        self.database.empty()
        with self.namespace.topic() as topic, projector(self.database.url, topic.name) as process:
            self.database.insert(self.warm_up)
            topic.drained_by(process, self.warm_up)
            self._rates("", topic)

    def debezium(self, name: str, settings: dict[str, str]) -> None:
        """All rates with one server."""
        self.database.empty()
        with self.plain.topic() as topic, debezium.debezium_server(self.database, topic, **settings) as process:
            self.database.insert(self.warm_up)
            topic.drained_by(process, self.warm_up)
            self._rates(f"{name}_", topic)

    def _rates(self, prefix: str, topic: Topic) -> None:
        first = self.warm_up + 1
        for rate in RATES:
            skipped, events = rate * SKIPPED_SECONDS, rate * self.seconds
            latencies = sorted(_latencies(self.database.url, topic, first, skipped + events, rate)[skipped:])
            first += skipped + events
            suffix = "" if rate == MAIN_RATE else f"_at_{rate}"
            for name, part in PERCENTILES.items():
                self.samples[f"{prefix}{name}{suffix}"].append(latencies[int(part * (len(latencies) - 1))])

    def figures(self) -> Figures:
        """With the ratios of each round."""
        figures = Figures()
        for name, samples in self.samples.items():
            figures.add(name, samples, "ms", goal=GOALS.get(name, ""))
        for name, goal in (("p50_ms", "≤ 0.5"), ("p99_ms", "≤ 0.33")):
            if theirs := self.samples.get(f"debezium_tuned_{name}"):
                pairs = zip(self.samples[name], theirs, strict=True)
                ratios = [ours / tuned for ours, tuned in pairs]
                figures.add(f"ratio_tuned_{name.removesuffix('_ms')}", ratios, goal=goal)
        return figures


def _latencies(url: str, topic: Topic, first: int, events: int, rate: int) -> list[float]:
    """Milliseconds from commit to consumer, in the order of the commits."""
    arguments = [url, TENANT, str(first), str(events), str(rate)]
    with _reader(topic) as reader:
        writer = subprocess.Popen(
            [sys.executable, "-m", "bench.harness.latency_writer", *arguments], stdout=subprocess.PIPE, text=True
        )
        received: dict[int, int] = {}
        expected = range(first, first + events)
        while len(received) < events:
            number = json.loads(reader.read_next(60_000).data())["number"]
            # Without deduplication one of the rate before may come once more.
            if number in expected:
                received.setdefault(number, time.monotonic_ns())
        output, _ = writer.communicate()
    committed = [int(line) for line in output.splitlines()]
    return [(received[first + n] - moment) / 1e6 for n, moment in enumerate(committed)]


@contextmanager
def _reader(topic: Topic) -> Iterator[Any]:
    """Of what comes from now on."""
    client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        yield client.create_reader(topic.name, pulsar.MessageId.latest, receiver_queue_size=10_000)
    finally:
        client.close()
