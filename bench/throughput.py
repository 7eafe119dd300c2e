"""How fast a backlog is drained by one projector, exactly once and in order.

Everybody gets the same rows: 300 bytes each, over 1,000 aggregates. Timed is the stretch from the first message on the
topic to the last, as the broker counts them, so nobody's start is in it. After each of our runs the topic is read:
every event has to be there once.

    raw_client      the Pulsar client with the rows in memory, no database, no deduplication: the limit
    ours            a projector with a batch size of 1,000; below it, the ladder of other batch sizes
    one_by_one      a loop that awaits each answer, marks by the ORM (fewer rows: it would take an hour)
    batch_with_orm  a loop that awaits 200 answers together, marks by the ORM (fewer rows)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.figures import Figures
from bench.harness import loops
from bench.harness.database import Database, own_database
from bench.harness.projector import projector
from bench.harness.topics import Namespace, own_namespace

PARTS = ("postgres", "pulsar")
BATCH = 1000
LADDER = (200, 500, 2000)


def run(*, smoke: bool) -> Figures:
    """The figures."""
    with (
        own_database() as database,
        own_namespace(deduplication=True) as namespace,
        own_namespace(deduplication=False) as plain,
    ):
        bench = _Bench(database, namespace, plain, rows=3_000 if smoke else 200_000)
        for _ in range(1 if smoke else 3):
            bench.round()
        return bench.figures()


@dataclass
class _Bench:
    database: Database
    namespace: Namespace
    plain: Namespace
    rows: int
    rates: dict[str, list[float]] = field(default_factory=dict)

    def round(self) -> None:
        """Everybody once."""
        self._fill(self.rows)
        self._took("ours", self._ours(BATCH))
        self._took("raw_client", self._raw_client())
        for batch in LADDER:
            self._fill(self.rows)
            self._took(f"ours_batch_{batch}", self._ours(batch))
        self._took("batch_with_orm", self._loop(loops.batch_with_orm, self.rows // 10))
        self._took("one_by_one", self._loop(loops.one_by_one, self.rows // 100))

    def _took(self, name: str, rate: float) -> None:
        self.rates.setdefault(name, []).append(rate)

    def _fill(self, rows: int) -> None:
        self.database.empty()
        self.database.insert(rows)
        self.database.settle_down()

    def _ours(self, batch: int) -> float:
        with self.namespace.topic() as topic:
            with projector(self.database.url, topic.name, batch_size=batch) as process:
                rate = topic.wait_for(self.rows, alive=process.check).rate
            topic.verify(self.rows)
        return rate

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
        ours, raw = self.rates["ours"], self.rates["raw_client"]
        figures = Figures()
        for name, rates in self.rates.items():
            figures.add(name, rates, "events/s")
        figures.add("ratio_raw", [a / b for a, b in zip(ours, raw, strict=True)], goal="≥ 0.6")
        return figures
