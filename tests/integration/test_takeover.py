"""A lane goes from a process that is killed in the middle of its work to the next: real processes, database, broker."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from contextlib import AsyncExitStack
from itertools import cycle

import pytest

from tests.support.programs import Running, started
from tests.support.pulsar_topics import Namespaces, Topics
from tests.support.rows import Rows
from tests.support.waiting import eventually

EVENTS = 6_000
KILLS = 5


@pytest.mark.parametrize("batchings", [("Default",), ("KeyBased",), ("Default", "KeyBased")], ids="-".join)
async def test_kill_9_loses_doubles_and_reorders_nothing(
    rows: Rows,
    database_url: str,
    pulsar_url: str,
    own_namespace: str,
    namespaces: Namespaces,
    topics: Topics,
    batchings: tuple[str, ...],
) -> None:
    """batchings: what the owners are set to, in turn."""
    settings = cycle(batchings)
    await namespaces.set(own_namespace, "deduplication", True)
    topic = f"persistent://{own_namespace}/events"
    written = await rows.insert_many(EVENTS, aggregates=20)

    async with AsyncExitStack() as processes:

        async def contender() -> Running:
            program = started(
                "python",
                "-m",
                "tests.support.lane_process",
                rows.tenant,
                topic,
                next(settings),
                EVENTS_DATABASE=database_url,
                PULSAR_URL=pulsar_url,
            )
            return await processes.enter_async_context(program)

        for _ in range(KILLS):
            owner = await contender()
            await owner.logged("busy")
            assert (await owner.stopped_by(signal.SIGKILL)).code == -signal.SIGKILL
        await contender()

        async def done() -> bool:
            return await rows.count("SENT") == EVENTS

        await eventually(done)

    received = await topics.exactly(EVENTS, topic)
    assert {message.event_id for message in received} == set(map(str, written))
    by_aggregate: dict[str, list[int]] = defaultdict(list)
    for message in received:
        by_aggregate[message.key].append(json.loads(message.payload)["n"])
    assert len(by_aggregate) == 20
    assert all(numbers == sorted(numbers) for numbers in by_aggregate.values())
