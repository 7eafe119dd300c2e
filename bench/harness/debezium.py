"""The peer: Debezium Server with its Outbox Event Router and its Pulsar sink, on the same table.

Set up in its favour: no snapshot; the payload handed through as the text that it is, neither parsed nor encoded anew;
three properties of the eight that our messages bear; a heap that a pod could have; a slot of its own, dropped
afterwards, so that it never reads what others wrote before it came. It is stopped before anybody else is measured.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.harness.database import Database
from bench.harness.errors import BenchError
from bench.harness.process import Process
from bench.harness.topics import Topic
from sandbox import debezium, versions

EVENT_ID = "id"
"""The property in which its messages bear the event's id."""
WARM_UP_ROWS = 100_000
"""Delivered before anything of it is timed."""

TUNED = {"debezium.source.poll.interval.ms": "5"}
"""For latency: by default it looks twice a second."""
LARGE_BATCHES = {"debezium.source.max.batch.size": "8192", "debezium.source.max.queue.size": "32768"}
"""For throughput: four times the defaults."""

prepare = debezium.prepare


def taken_along(*, smoke: bool) -> bool:
    """Whether it is measured: always, but for a smoke run where it has not been fetched yet. Raises BenchError."""
    if debezium.prepared():
        return True
    if smoke:
        print(f"  without Debezium Server {versions.DEBEZIUM}, which is not here yet; `make bench` fetches it")
        return False
    raise BenchError("Debezium Server is not here yet: start the benchmark by `make bench`, which fetches it")


@contextmanager
def debezium_server(database: Database, topic: Topic, **settings: str) -> Iterator[Process]:
    """Runs it; yields when it reads the write-ahead log. settings: in addition to, or instead of, `_properties`."""
    with tempfile.TemporaryDirectory(prefix="bench-debezium-") as folder:
        home = Path(folder)
        (home / "config").mkdir()
        properties = _properties(database, topic, home) | settings
        (home / "config" / "application.properties").write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        try:
            with Process(debezium.command(), env=os.environ, log=home / "log", cwd=home) as process:
                _wait_until_streaming(database, process)
                yield process
        finally:
            _drop_slot(database)


def _properties(database: Database, topic: Topic, home: Path) -> dict[str, str]:
    server = urlsplit(database.url)
    tenant, namespace, name = topic.name.removeprefix("persistent://").split("/")
    source, router = "debezium.source.", "debezium.transforms.outbox."
    return {
        "debezium.sink.type": "pulsar",
        "debezium.sink.pulsar.client.serviceUrl": os.environ["PULSAR_URL"],
        "debezium.sink.pulsar.tenant": tenant,
        "debezium.sink.pulsar.namespace": namespace,
        f"{source}connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        f"{source}offset.storage.file.filename": str(home / "offsets.dat"),
        f"{source}database.hostname": server.hostname or "",
        f"{source}database.port": str(server.port or 5432),
        f"{source}database.user": server.username or "",
        f"{source}database.password": server.password or "",
        f"{source}database.dbname": database.name,
        f"{source}topic.prefix": "bench",
        f"{source}table.include.list": "public.outbox",
        f"{source}plugin.name": "pgoutput",
        f"{source}slot.name": database.name,
        f"{source}publication.name": database.name,
        f"{source}publication.autocreate.mode": "filtered",
        f"{source}snapshot.mode": "no_data",
        "debezium.transforms": "outbox",
        f"{router}type": "io.debezium.transforms.outbox.EventRouter",
        f"{router}table.field.event.key": "aggregate_id",
        f"{router}table.fields.additional.placement": "type:header,tenant_id:header",
        f"{router}route.by.field": "type",
        f"{router}route.topic.replacement": name,
        "debezium.format.key": "simplestring",
        "debezium.format.value": "simplestring",
        "debezium.format.header": "json",
        "debezium.format.header.schemas.enable": "false",
        f"{source}extended.headers.enabled": "false",
        "quarkus.http.host": "127.0.0.1",
        "quarkus.http.port": "0",
        "quarkus.log.level": "WARN",
        "quarkus.log.console.json.enabled": "false",
    }


def _wait_until_streaming(database: Database, process: Process, *, seconds: float = 120) -> None:
    """A slot is active while it is being made, too, and what is committed meanwhile is not in it."""
    deadline = time.monotonic() + seconds
    streaming = (
        "SELECT count(*) FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid "
        "WHERE slot_name = %s AND state IN ('catchup', 'streaming')"
    )
    while not database.value(streaming, database.name):
        process.check()
        if time.monotonic() > deadline:
            raise BenchError(f"Debezium Server did not read the write-ahead log after {seconds:.0f} s")
        time.sleep(0.1)


def _drop_slot(database: Database, *, seconds: float = 30) -> None:
    """The server notices a moment after the process has ended."""
    deadline = time.monotonic() + seconds
    slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s AND active"
    while database.value(slots, database.name) and time.monotonic() < deadline:
        time.sleep(0.1)
    database.connection.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (database.name,)
    )
    database.connection.execute(f"DROP PUBLICATION IF EXISTS {database.name}")
