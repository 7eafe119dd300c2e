"""How fast a backlog is drained by one projector, exactly once and in order.

Everybody gets the same rows: 300 bytes each, over 1,000 aggregates. Timed is the stretch from the first message on the
topic to the last, as the broker counts them, so nobody's start is in it. After each of our runs the topic is read:
every event has to be there once.

    ours                a projector with a batch size of 1,000; below it, the ladder of other batch sizes
    ours_deleting       the same with retention.sentSeconds: 0, which deletes what is sent instead of marking it
    ours_at_least_once  the same with delivery.guarantee: AtLeastOnce
    debezium            Debezium Server after 100,000 other events, its queues enlarged
    raw_client          the Pulsar client with the rows in memory, no database, no deduplication: the limit
    one_by_one          a loop that awaits each answer, marks by the ORM (fewer rows: it would take an hour)
    batch_with_orm      a loop that awaits 200 answers together, marks by the ORM (fewer rows)

The `_cpu` figures are microseconds of CPU of the publishing process for an event.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from bench.figures import Figures
from bench.harness import debezium, loops
from bench.harness.database import Database, own_database
from bench.harness.projector import projector
from bench.harness.topics import Drain, Namespace, own_namespace

PARTS = ("postgres", "pulsar")
prepare = debezium.prepare
BATCH = 1000
LADDER = (200, 500, 2000)


def run(*, smoke: bool) -> Figures:
    """The figures."""
    with (
        own_database() as database,
        own_namespace(deduplication=True) as namespace,
        own_namespace(deduplication=False) as plain,
    ):
        rows = 3_000 if smoke else 200_000
        bench = _Bench(database, namespace, plain, rows, with_debezium=debezium.taken_along(smoke=smoke))
        for _ in range(1 if smoke else 3):
            bench.round()
        return bench.figures()


@dataclass
class _Bench:
    database: Database
    namespace: Namespace
    plain: Namespace
    rows: int
    with_debezium: bool
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def round(self) -> None:
        """Everybody once, the first three on the very same rows."""
        if self.with_debezium:
            self._took("debezium", self._debezium())
        else:
            self._fill(self.rows)
        self.database.settle_down()
        self._took("ours", self._ours(BATCH))
        self.samples["raw_client"].append(self._raw_client())
        self._fill(self.rows)
        self._took("ours_deleting", self._ours(BATCH, retention_sent_seconds=0))
        self._fill(self.rows)
        self._took("ours_at_least_once", self._ours(BATCH, guarantee="AtLeastOnce"))
        for batch in LADDER:
            self._fill(self.rows)
            self._took(f"ours_batch_{batch}", self._ours(batch))
        self.samples["batch_with_orm"].append(self._loop(loops.batch_with_orm, self.rows // 10))
        self.samples["one_by_one"].append(self._loop(loops.one_by_one, self.rows // 100))

    def _took(self, name: str, drain: Drain) -> None:
        self.samples[name].append(drain.rate)
        self.samples[f"{name}_cpu"].append(drain.cpu_microseconds)

    def _fill(self, rows: int) -> None:
        self.database.empty()
        self.database.insert(rows)
        self.database.settle_down()

    def _debezium(self) -> Drain:
        warm_up = min(debezium.WARM_UP_ROWS, self.rows)
        self.database.empty()
        with self.plain.topic() as topic:
            with debezium.debezium_server(self.database, topic, **debezium.LARGE_BATCHES) as process:
                self.database.insert(warm_up, rows_a_transaction=BATCH)
                topic.drained_by(process, warm_up)
                self.database.empty()
                self.database.insert(self.rows)
                drain = topic.drained_by(process, self.rows, after=warm_up)
            topic.verify(self.rows + warm_up, identity=debezium.EVENT_ID)
        return drain

    def _ours(self, batch: int, **settings: Any) -> Drain:
        with self.namespace.topic() as topic:
            with projector(self.database.url, topic.name, batch_size=batch, **settings) as process:
                drain = topic.drained_by(process, self.rows)
            topic.verify(self.rows)
        return drain

    def _raw_client(self) -> float:
        rows = self.database.connection.execute("SELECT id::text, aggregate_id, payload::text FROM outbox ORDER BY seq")
        messages = [(event_id, key, payload.encode()) for event_id, key, payload in rows]
        with self.plain.topic() as topic:
            return loops.raw_client(messages, topic.name, BATCH)

    def _loop(self, loop: loops.Loop, rows: int) -> float:
        self._fill(rows)
        with self.plain.topic() as topic:
            return loop(self.database, topic.name, rows)

    def figures(self) -> Figures:
        """With the ratios of each round."""
        figures = Figures()
        for name, samples in self.samples.items():
            figures.add(name, samples, "µs/event" if name.endswith("_cpu") else "events/s")
        for peer, goal in (("debezium", "≥ 2.5"), ("raw_client", "≥ 0.6")):
            if peer in self.samples:
                ratios = [ours / theirs for ours, theirs in zip(self.samples["ours"], self.samples[peer], strict=True)]
                figures.add(f"ratio_{peer.removesuffix('_client')}", ratios, goal=goal)
        return figures
