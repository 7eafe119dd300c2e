"""What a projector takes of the machine while it is idle, with 5 million rows waiting, and when it starts.

    idle_…                    with nothing to do, after its first events
    loaded_…                  in the first minute of a backlog of 5 million rows of 300 bytes
    debezium_…                Debezium Server, idle after 100,000 events, its heap limited to 512 MB
    seconds_to_first_publish  from the start of the process until a reader of the topic has the first event

Memory is the resident set of the process in MiB: the most that it was, but of Debezium Server what it is after its
events. CPU is seconds a minute. The projector has the Python packages that its image has, and no more.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pulsar

from bench.figures import Figures
from bench.harness import debezium, image_environment
from bench.harness.database import Database, own_database
from bench.harness.process import Process
from bench.harness.projector import projector
from bench.harness.topics import Namespace, Topic, own_namespace

PARTS = ("postgres", "pulsar")
ROWS_A_TRANSACTION = 100_000
GOALS = {"idle_mb": "≤ 64", "loaded_mb": "≤ 96", "seconds_to_first_publish": "≤ 2"}
UNITS = {"mb": "MiB", "cpu": "s/min", "publish": "s"}


def prepare() -> None:
    """What both sides run."""
    debezium.prepare()
    image_environment.prepare()


def run(*, smoke: bool) -> Figures:
    """The figures."""
    program = image_environment.projector_program(smoke=smoke)
    with (
        own_database() as database,
        own_namespace(deduplication=True) as namespace,
        own_namespace(deduplication=False) as plain,
    ):
        bench = _Bench(database, namespace, plain, program, seconds=1 if smoke else 60)
        with_debezium = debezium.taken_along(smoke=smoke)
        for _ in range(1 if smoke else 3):
            bench.idle()
            if with_debezium:
                bench.debezium(rows=100 if smoke else debezium.WARM_UP_ROWS)
        bench.loaded(rows=1_000 if smoke else 5_000_000)
        return bench.figures()


@dataclass
class _Bench:
    database: Database
    namespace: Namespace
    plain: Namespace
    program: Sequence[str | Path]
    seconds: float
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def idle(self) -> None:
        """From the start, over the first event, into idleness."""
        self.database.empty()
        self.database.insert(1)
        with self.namespace.topic() as topic, self._projector(topic) as process:
            self.samples["seconds_to_first_publish"].append(_first_message(topic) - process.began)
            self._watch("idle", process)

    def loaded(self, rows: int) -> None:
        """Each batch is one of millions."""
        self.database.empty()
        self.database.insert(rows, rows_a_transaction=ROWS_A_TRANSACTION)
        self.database.settle_down()
        with self.namespace.topic() as topic, self._projector(topic) as process:
            topic.drained_by(process, 1)
            self._watch("loaded", process)

    def _projector(self, topic: Topic) -> AbstractContextManager[Process]:
        return projector(self.database.url, topic.name, program=self.program)

    def debezium(self, rows: int) -> None:
        """The same idleness of the peer."""
        self.database.empty()
        with self.plain.topic() as topic, debezium.debezium_server(self.database, topic) as process:
            self.database.insert(rows, rows_a_transaction=1000)
            topic.drained_by(process, rows)
            self._watch("debezium", process, peak=False)

    def _watch(self, name: str, process: Process, *, peak: bool = True) -> None:
        before = process.cpu_seconds()
        time.sleep(self.seconds)
        process.check()
        self.samples[f"{name}_mb"].append(process.resident_megabytes(peak=peak))
        self.samples[f"{name}_cpu"].append((process.cpu_seconds() - before) * 60 / self.seconds)

    def figures(self) -> Figures:
        """With the ratio of each round."""
        figures = Figures()
        for name, samples in self.samples.items():
            figures.add(name, samples, UNITS[name.rpartition("_")[2]], goal=GOALS.get(name, ""))
        if theirs := self.samples.get("debezium_mb"):
            ratios = [ours / peer for ours, peer in zip(self.samples["idle_mb"], theirs, strict=True)]
            figures.add("ratio_debezium", ratios, goal="≤ 0.125")
        return figures


def _first_message(topic: Topic) -> float:
    """The moment at which the first one is here, on the monotonic clock."""
    client = pulsar.Client(os.environ["PULSAR_URL"], logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
    try:
        client.create_reader(topic.name, pulsar.MessageId.earliest).read_next(60_000)
        return time.monotonic()
    finally:
        client.close()
