"""What the reports of a tenant without events cost the API server.

requests_per_minute  of all kinds, over nine minutes that begin half a minute after the last event, with the interval
                     as it comes (180 s)
tenants_5000         requests a second of 5,000 such tenants: that many times as much
"""

from __future__ import annotations

import time

from bench.figures import Figures
from bench.harness.database import own_database
from bench.harness.projector import projector
from bench.harness.status_server import status_server
from bench.harness.topics import own_namespace

PARTS = ("postgres", "pulsar")
TENANTS = 5000


def run(*, smoke: bool) -> Figures:
    """The figures."""
    settling, seconds = (1, 1) if smoke else (30, 540)
    with (
        own_database() as database,
        own_namespace(deduplication=True) as namespace,
        namespace.topic() as topic,
        status_server() as requests,
        projector(database.url, topic.name, resource_name="bench") as process,
    ):
        database.insert(1)
        topic.drained_by(process, 1)
        time.sleep(settling)
        before = requests.count
        time.sleep(seconds)
        process.check()
        rate = (requests.count - before) * 60 / seconds
    figures = Figures()
    figures.add("requests_per_minute", rate)
    figures.add("tenants_5000", rate * TENANTS / 60, "requests/s")
    return figures
