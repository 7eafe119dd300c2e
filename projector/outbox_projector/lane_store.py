"""The owner's turns in Postgres: `LaneStore`. Every call is one transaction. Its SQL: `lanes.sql`.

Only the clock of the database counts. A transaction of the owner begins by holding the lane, so that no other owner
can come before it ends; when the lane was taken over, nothing of it happens.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg

from bento_outbox import Envelope, Refusal
from bento_outbox.sql_files import Named
from outbox_projector.database import Connect, transaction
from outbox_projector.flights import LEASE_SECONDS, Flight, Lease, LeaseLost, Turn, Turned, most_bytes
from outbox_projector.low_water import BOTTOM, Look, LowWater
from outbox_projector.policies import Retries
from outbox_projector.sql import statements
from outbox_projector.store import Store, read_row

FLIGHT_BYTES = 3 << 20
"""Payload, key and properties of a flight; a single larger row flies alone. Below every limit at which the client would
cut a batch in two, which would break deduplication. With a third of it large events are a fifth to a third slower."""

OTHER_BYTES = 700
"""What a claim takes a row to need besides its payload: as `most_bytes` has it for names of usual lengths."""


class PostgresLaneStore:
    """The lanes of one tenant, for their owners."""

    def __init__(
        self,
        connect: Connect,
        table: Named,
        *,
        tenant_id: str,
        retries: Retries,
        topic_of: Callable[[Envelope], str],
        by_key: bool = False,
        keep_sent: bool = True,
        ordered: bool = True,
        hold_aggregates: bool = False,
        lease_seconds: float = LEASE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """topic_of: where an event goes. by_key: how flights are cut.

        keep_sent: whether a row that is sent stays, marked; else it is deleted.
        ordered: a row that waits, or that somebody else holds, holds back the later ones of its key.
        hold_aggregates: so does a row in ERR.
        """
        self._connect = connect
        self._tenant = {"tenant_id": tenant_id}
        self._lease_seconds = lease_seconds
        self._ordered = ordered
        self._holding = {"ordered": ordered, "hold_aggregates": hold_aggregates}
        self._retries = retries
        self._topic_of = topic_of
        self._by_key = by_key
        self._rows = Store(table, tenant_id)
        self._low_water = LowWater(clock)
        self._sql = statements(__package__, "lanes.sql", table)
        self._settled = self._sql["mark_sent" if keep_sent else "delete_sent"]

    async def open_flights(self, lease: Lease) -> list[Flight]:
        """See LaneStore. A flight of which no row is left, or none that can be read, is over."""
        self._low_water.forget()
        async with self._held(lease) as connection:
            rows = await self._sql["open_flights"].rows(connection, self._lane(lease))
            flights = [_flight(list(members)) for _, members in groupby(rows, key=lambda row: row["number"])]
            await self._land(connection, lease, [flight for flight in flights if not flight.events])
            return [flight for flight in flights if flight.events]

    async def turn(self, lease: Lease, turn: Turn) -> Turned:
        """See LaneStore."""
        async with self._held(lease, rest=turn.rest) as connection:
            failed = await self._settle(connection, lease, turn)
            claimed = await self._claim(connection, lease, turn) if turn.limit else Turned()
            return Turned(
                flight=claimed.flight,
                topic=claimed.topic,
                more=claimed.more,
                retried=len(turn.refused) - failed,
                failed=failed + claimed.failed,
            )

    @asynccontextmanager
    async def _held(self, lease: Lease, *, rest: float = 0.0) -> AsyncIterator[asyncpg.Connection]:
        values = {**self._lane(lease), "epoch": lease.epoch, "lease_seconds": self._lease_seconds + 2 * rest}
        async with transaction(self._connect) as connection:
            if not await self._sql["hold"].run(connection, values):
                raise LeaseLost(f"lane {lease.lane} has another owner")
            yield connection

    def _lane(self, lease: Lease) -> dict[str, Any]:
        return {**self._tenant, "lane": lease.lane}

    async def _settle(self, connection: asyncpg.Connection, lease: Lease, turn: Turn) -> int:
        """Returns how many refused rows became ERR."""
        if turn.settled is None:
            await self._land(connection, lease, turn.withdrawn)
            return 0
        sent = [id_ for id_ in turn.settled.ids if id_ not in turn.refused]
        await self._land(connection, lease, [turn.settled, *turn.withdrawn], sent=sent)
        return await self._rows.mark_refused(connection, turn.refused, turn.settled.retry_counts, self._retries)

    async def _land(
        self, connection: asyncpg.Connection, lease: Lease, over: Sequence[Flight], *, sent: Collection[UUID] = ()
    ) -> None:
        """sent: ids of the rows in them that the broker has."""
        if over:
            values = {
                **self._lane(lease),
                "topics": [flight.topic for flight in over],
                "first_sequences": [flight.first_sequence for flight in over],
                "sent": sent,
            }
            await self._settled.run(connection, values)

    async def _look_for_low_water(self, connection: asyncpg.Connection) -> int:
        """The sequence number at which a claim begins to read."""
        if self._holding["hold_aggregates"]:
            # A row that is requeued must come before the later ones of its key, wherever it is.
            return BOTTOM
        begin = self._low_water.look_from()
        if begin is not None:
            began = self._low_water.clock()
            (seen,) = await self._sql["look"].rows(connection, {**self._tenant, "begin": begin})
            look = None if seen["lowest"] is None else Look(**seen)
            self._low_water.looked(look, begin=begin, took=self._low_water.clock() - began)
        return self._low_water.mark

    async def _claim(self, connection: asyncpg.Connection, lease: Lease, turn: Turn) -> Turned:
        asked = {"lanes": lease.lanes, "limit": turn.limit, "most_bytes": FLIGHT_BYTES, "other_bytes": OTHER_BYTES}
        asked["low_water"] = await self._look_for_low_water(connection)
        rows = await self._sql["candidates"].rows(connection, {**self._lane(lease), **self._holding, **asked})
        if rows:
            self._low_water.claimed()
        free = _not_behind_locked(rows) if self._ordered else [row for row in rows if row["is_locked"]]
        events, unreadable, counts = _read(free)
        if self._holding["hold_aggregates"]:
            events = _not_behind_unreadable(free, events, unreadable)
        failed = await self._rows.mark_refused(connection, unreadable, counts, self._retries)
        if not events:
            return Turned(failed=failed)
        topic = self._topic_of(events[0])
        if topic not in turn.floors:
            return Turned(topic=topic, failed=failed)
        chosen, size = _cut(self._bound_for(topic, events))
        flight = {
            "topic": topic,
            "floor": turn.floors[topic],
            "ids": [event.id for event in chosen],
            "by_key": self._by_key,
        }
        first = await self._sql["take_off"].value(connection, {**self._lane(lease), **flight})
        return Turned(
            flight=Flight(
                topic=topic,
                first_sequence=first,
                events=chosen,
                retry_counts={event.id: counts[event.id] for event in chosen},
                by_key=self._by_key,
                size=size,
            ),
            more=rows[-1]["more"] or len(chosen) < len(events),
            failed=failed,
        )

    def _bound_for(self, topic: str, events: Sequence[Envelope]) -> list[Envelope]:
        """Those that go there, but none behind one of its key that goes elsewhere: that one may be refused."""
        bound = [event for event in events if self._topic_of(event) == topic]
        if len(bound) == len(events) or not self._ordered:
            return bound
        there = {event.id for event in bound}
        elsewhere: set[str] = set()
        bound = []
        for event in events:
            if event.id not in there:
                elsewhere.add(event.key)
            elif event.key not in elsewhere:
                bound.append(event)
        return bound


def _not_behind_locked(rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """Without the rows that somebody else holds, and the later ones of their keys, which must not overtake them."""
    if all(row["is_locked"] for row in rows):
        return list(rows)
    held: set[str] = set()
    free = []
    for row in rows:
        key = _key(row)
        if not row["is_locked"]:
            held.add(key)
        elif key not in held:
            free.append(row)
    return free


def _not_behind_unreadable(
    rows: Sequence[asyncpg.Record], events: Sequence[Envelope], unreadable: Collection[UUID]
) -> list[Envelope]:
    """Without the later ones of a key of which a row is about to be in ERR."""
    held: set[str] = set()
    behind: set[UUID] = set()
    for row in rows:
        if row["id"] in unreadable:
            held.add(_key(row))
        elif _key(row) in held:
            behind.add(row["id"])
    return [event for event in events if event.id not in behind]


def _key(row: asyncpg.Record) -> str:
    key: str = row["aggregate_id"] if row["ordering_key"] is None else row["ordering_key"]
    return key


def _read(rows: Sequence[asyncpg.Record]) -> tuple[list[Envelope], dict[UUID, Refusal], dict[UUID, int]]:
    events: list[Envelope] = []
    unreadable: dict[UUID, Refusal] = {}
    for row in rows:
        try:
            events.append(read_row(row))
        except (ValueError, RecursionError) as error:
            unreadable[row["id"]] = Refusal(f"the row cannot be read: {error}", permanent=True)
    return events, unreadable, {row["id"]: row["retry_cnt"] for row in rows}


def _cut(events: Sequence[Envelope]) -> tuple[list[Envelope], int]:
    """As many as fit into a flight, at least one; and the bytes that they take at most."""
    size = 0
    for count, event in enumerate(events):
        with_it = size + most_bytes(event)
        if count and with_it > FLIGHT_BYTES:
            return list(events[:count]), size
        size = with_it
    return list(events), size


def _flight(members: Sequence[asyncpg.Record]) -> Flight:
    events, unreadable, counts = _read([member for member in members if member["id"] is not None])
    # All were readable when they were claimed; one that is not any more was changed by hand, and stays NEW.
    return Flight(
        topic=members[0]["flight_topic"],
        first_sequence=members[0]["first_sequence"],
        events=events,
        retry_counts={event_id: count for event_id, count in counts.items() if event_id not in unreadable},
        by_key=members[0]["by_key"],
        recovered=True,
    )
