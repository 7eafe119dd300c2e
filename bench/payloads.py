"""How many bytes a second are drained, from small events to large ones, plain and compressed.

Payloads of 100 bytes to 1 MB, of hexadecimal digits, 100 MB of each size but at most 50,000 rows. The figures are MB of
payload a second, from the first message on the topic to the last. (Debezium has room for all 100 MB, and may send them
in one burst after its first message: from 100 KB on its figures vary tenfold. With 400 MB it does not get to the end:
the client's TimeoutException.)

    plain, lz4, zstd  a projector with a batch size of 1,000 and that compression
    …_memory          the most memory that it had resident, in MiB, with the Python packages of its image
    debezium          Debezium Server after 30,000 other events, not compressed
    below_debezium    sizes at which it is faster than the projector, not compressed
    shrinking         sizes at which fewer bytes a second are drained than at the size before, not compressed
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from bench.figures import Figures
from bench.harness import debezium, image_environment
from bench.harness.database import Database, own_database
from bench.harness.projector import projector
from bench.harness.topics import Drain, Namespace, own_namespace

PARTS = ("postgres", "pulsar")
SIZES = {"100_b": 100, "1_kb": 1_000, "10_kb": 10_000, "100_kb": 100_000, "1_mb": 1_000_000}
COMPRESSIONS = {"plain": "None", "lz4": "LZ4", "zstd": "ZSTD"}
BATCH = 1000
MOST_ROWS = 50_000
WARM_UP_ROWS = 30_000
LARGE_EVENTS = {
    # Else its queue of 8,192 large events would not fit into its heap.
    "debezium.source.max.queue.size.in.bytes": str(64 << 20),
    # Else its sink puts a batch of large events into 64 MB of the client's memory, logs an error for each one that does
    # not fit (MemoryBufferIsFullError), and goes on without it: those are lost. Without any limit (0) it is the same
    # with the thousand messages that may be pending then (ProducerQueueIsFullError).
    "debezium.sink.pulsar.client.memoryLimitBytes": str(256 << 20),
}


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
        sizes = {label: SIZES[label] for label in ("100_b", "1_mb")} if smoke else SIZES
        bench = _Bench(database, namespace, plain, program, sizes, volume=2_000_000 if smoke else 100_000_000)
        with_debezium = debezium.taken_along(smoke=smoke)
        for _ in range(1 if smoke else 3):
            if with_debezium:
                bench.debezium(warm_up=100 if smoke else WARM_UP_ROWS)
            bench.ours()
        return bench.figures()


@dataclass
class _Bench:
    database: Database
    namespace: Namespace
    plain: Namespace
    program: Sequence[str | Path]
    sizes: Mapping[str, int]
    volume: int
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def ours(self) -> None:
        """All sizes, each with all compressions."""
        for label, size in self.sizes.items():
            rows = self._fill(size)
            self.database.settle_down()
            for name, compression in COMPRESSIONS.items():
                self.database.rewind()
                with (
                    self.namespace.topic() as topic,
                    projector(
                        self.database.url,
                        topic.name,
                        program=self.program,
                        batch_size=BATCH,
                        pulsar_compression=compression,
                    ) as process,
                ):
                    self._took(f"{name}_{label}", topic.drained_by(process, rows), size)
                    self.memory[f"{name}_{label}_memory"].append(process.resident_megabytes(peak=True))

    def debezium(self, warm_up: int) -> None:
        """All sizes with one server."""
        self.database.empty()
        with (
            self.plain.topic() as topic,
            debezium.debezium_server(self.database, topic, **LARGE_EVENTS) as process,
        ):
            self.database.insert(warm_up)
            topic.drained_by(process, warm_up)
            done = warm_up
            for label, size in self.sizes.items():
                rows = self._fill(size)
                self._took(f"debezium_{label}", topic.drained_by(process, rows, after=done), size)
                done += rows

    def _fill(self, size: int) -> int:
        rows = min(MOST_ROWS, self.volume // size)
        self.database.empty()
        self.database.insert(rows, payload_bytes=size, varied=True)
        return rows

    def _took(self, name: str, drain: Drain, size: int) -> None:
        self.samples[name].append(drain.rate * size / 1e6)

    def figures(self) -> Figures:
        """With how many sizes miss the goals."""
        figures = Figures()
        for name, samples in self.samples.items():
            figures.add(name, samples, "MB/s")
        for name, samples in self.memory.items():
            figures.add(name, samples, "MiB")
        plain = [statistics.median(self.samples[f"plain_{label}"]) for label in self.sizes]
        figures.add("shrinking", sum(larger < smaller for smaller, larger in pairwise(plain)), goal="0")
        if "debezium_100_b" in self.samples:
            peer = [statistics.median(self.samples[f"debezium_{label}"]) for label in self.sizes]
            figures.add("below_debezium", sum(a < b for a, b in zip(plain, peer, strict=True)), goal="0")
        return figures
