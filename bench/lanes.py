"""How fast a backlog is drained with 1, 2 and 4 lanes over a topic of 4 partitions, in one process and in four.

The rows and the timing are those of `throughput`, with a batch size of 1,000: 200,000 rows of 300 bytes over 1,000
aggregates. One process carries all lanes, or four share them; where there are fewer lanes than processes, the others
stand by. All start at once, so what four of them need to share the lanes is part of their time.

    one, two, four        lanes in one process
    one_by_4, …           the same lanes in four processes
    ratio_…               the rate as a multiple of that of one lane in one process, in the same round
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack

from bench.figures import Figures
from bench.harness.database import Database, own_database
from bench.harness.process import Together
from bench.harness.projector import projector
from bench.harness.topics import Namespace, own_namespace

PARTS = ("postgres", "pulsar")
BATCH = 1000
PARTITIONS = 4
LANES = {"one": 1, "two": 2, "four": 4}
PROCESSES = {"": 1, "_by_4": 4}


def run(*, smoke: bool) -> Figures:
    """The figures."""
    rows = 2_000 if smoke else 200_000
    samples: dict[str, list[float]] = defaultdict(list)
    with own_namespace(deduplication=True) as namespace:
        for _ in range(1 if smoke else 3):
            for suffix, processes in PROCESSES.items():
                for name, lanes in LANES.items():
                    # A database each: another number of lanes on the same rows is a change that takes its time.
                    with own_database() as database:
                        samples[name + suffix].append(_rate(database, namespace, rows, lanes, processes))
    figures = Figures()
    for name, rates in samples.items():
        figures.add(name, rates, "events/s")
    for name, rates in samples.items():
        if name != "one":
            ratios = [rate / one for rate, one in zip(rates, samples["one"], strict=True)]
            figures.add(f"ratio_{name}", ratios, goal="≥ 1")
    return figures


def _rate(database: Database, namespace: Namespace, rows: int, lanes: int, processes: int) -> float:
    database.insert(rows)
    database.settle_down()
    with namespace.topic(partitions=PARTITIONS) as topic, ExitStack() as closing:
        running = [
            closing.enter_context(projector(database.url, topic.name, batch_size=BATCH, lanes=lanes))
            for _ in range(processes)
        ]
        drain = topic.drained_by(Together(running), rows)
        topic.verify(rows)
    return drain.rate
