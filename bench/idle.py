"""What a tenant without events costs the database and the machine, alone and beside others in one database.

    statements_per_minute    all that Postgres is asked to execute, BEGIN and COMMIT included; counted on the wire
    connections              open ones
    cpu                      seconds a minute of the projector
    tenants_…                the same of TENANTS projectors (environment variable, default 500) together, and the sum of
                             their resident memory, each with the Python packages of its image. (What they share counts
                             for each; together they take about half as much of the machine.)

Measured is the minute that begins half a minute after the last event.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figures
from bench.harness import image_environment
from bench.harness.counting_proxy import counted
from bench.harness.database import Database, own_database
from bench.harness.process import Process
from bench.harness.projector import projector
from bench.harness.topics import Namespace, own_namespace

PARTS = ("postgres", "pulsar")
prepare = image_environment.prepare
AT_ONCE = 10


@dataclass(frozen=True)
class Cost:
    """Of some tenants together; for each minute where it has a duration."""

    statements: float
    connections: int
    cpu_seconds: float
    megabytes: float


def run(*, smoke: bool) -> Figures:
    """The figures."""
    settling, seconds = (1, 1) if smoke else (30, 60)
    tenants = 2 if smoke else int(os.environ.get("TENANTS") or 500)
    program = image_environment.projector_program(smoke=smoke)
    figures = Figures()
    with own_database() as database, own_namespace(deduplication=True) as namespace:
        alone = [_cost(database, namespace, program, 1, settling, seconds) for _ in range(1 if smoke else 3)]
        many = _cost(database, namespace, program, tenants, settling, seconds)
    figures.add("statements_per_minute", [cost.statements for cost in alone], goal="≤ 6")
    figures.add("connections", [cost.connections for cost in alone], goal="1")
    figures.add("cpu", [cost.cpu_seconds for cost in alone], "s/min")
    figures.add("tenants", tenants)
    figures.add("tenants_statements_per_minute", many.statements)
    figures.add("tenants_connections", many.connections)
    figures.add("tenants_cpu", many.cpu_seconds, "s/min")
    figures.add("tenants_mb", many.megabytes, "MiB")
    return figures


def _cost(
    database: Database,
    namespace: Namespace,
    program: Sequence[str | Path],
    tenants: int,
    settling: float,
    seconds: float,
) -> Cost:
    database.empty()
    names = [f"tenant-{number}" for number in range(tenants)]
    with counted(database.url) as (url, counts), ExitStack() as closing:
        processes: list[Process] = []
        for first in range(0, tenants, AT_ONCE):
            started = []
            for name in names[first : first + AT_ONCE]:
                database.insert(1, tenant=name)
                topic = closing.enter_context(namespace.topic())
                process = closing.enter_context(projector(url, topic.name, tenant=name, program=program))
                started.append((topic, process))
            for topic, process in started:
                topic.drained_by(process, 1)
                processes.append(process)
        time.sleep(settling)
        statements, cpu = counts.statements, sum(process.cpu_seconds() for process in processes)
        time.sleep(seconds)
        for process in processes:
            process.check()
        cost = Cost(
            statements=(counts.statements - statements) * 60 / seconds,
            connections=counts.connections,
            cpu_seconds=(sum(process.cpu_seconds() for process in processes) - cpu) * 60 / seconds,
            megabytes=sum(process.resident_megabytes() for process in processes),
        )
        for process in processes:
            os.kill(process.pid, signal.SIGTERM)  # all at once, since each takes a moment
        return cost
