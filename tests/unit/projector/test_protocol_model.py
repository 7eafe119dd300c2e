"""Once each and in order, whatever crashes, pauses or fails, at any await: thousands of schedules of the real lanes."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from uuid import UUID

import pytest

from bento_outbox import Envelope
from outbox_projector.flights import Flight, Lease, Turn, Turned
from outbox_projector.lane import Lane
from tests.support.envelopes import envelope
from tests.unit.projector.protocol_model import Broker, Database, Row, World

SCHEDULES = int(os.environ.get("SCHEDULES", "300"))
"""More of them: SCHEDULES=20000. A failure names its seed."""
TROUBLED_STEPS = 250
CALM_STEPS = 4_000


class Schedule:
    """One run: rows come, workers come and go and want other numbers of lanes, until everything calms down.

    Then the rest must get through.
    """

    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.random = self.world.scheduler.random
        self.topics = self.random.choice([["topic"], ["topic"], ["topic", "other"]])
        self.lanes = self.random.choice([[1], [1], [4], [1, 3, 4]])
        self.restored = self.random.random() < 0.3
        self.batchings = self.random.choice([[False], [False], [True], [False, True], [False, True]])
        self.world.database.by_key = self.batchings[0]
        self.world.database.ordered = self.random.random() < 0.9
        self.world.database.hold_aggregates = self.world.database.ordered and self.random.random() < 0.3

    async def run(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self._start_worker()
        for _ in range(TROUBLED_STEPS):
            await self._one_trouble()
        await self._calm_down()

    def _start_worker(self) -> None:
        self.world.start_worker(self.random.choice(self.lanes))

    async def _one_trouble(self) -> None:
        world, chance = self.world, self.random.random()
        someone = self.random.choice(sorted(world.tasks))
        if chance < 0.12:
            self._commit_row()
        elif chance < 0.15:
            # The lease has run out, while its owner may still be at it.
            world.database.owners[self.random.randrange(4)].expired = True
        elif chance < 0.16 and someone in world.database.members:
            world.database.members[someone].is_quiet = True
        elif chance < 0.18:
            world.scheduler.freeze(someone)
        elif chance < 0.21:
            world.scheduler.thaw()
        elif chance < 0.225:
            world.scheduler.kill(someone)
        elif chance < 0.23 and self.restored:
            world.database.next_sequence.clear()  # as in a database that was restored from a backup
        elif chance < 0.24:
            world.projectors[someone].stop()
        elif chance < 0.25 and world.database.hold_aggregates:
            self._requeue()
        elif chance < 0.30:
            world.database.by_key = self.random.choice(self.batchings)
        elif chance < 0.34 and len(world.tasks) < 8:
            self._start_worker()
        else:
            await world.scheduler.go_on()

    def _commit_row(self) -> None:
        event = envelope(
            aggregate_id=f"aggregate-{self.random.randint(1, 4)}",
            topic=None if (topic := self.random.choice(self.topics)) == "topic" else topic,
        )
        # By key, events that share an entry with a bad one share its attempts: not what is looked at here.
        if self.batchings == [False] and self.random.random() < 0.05:
            self.world.broker.bad.add(event.id)
        rows = self.world.database.rows
        # A transaction that began earlier may commit later: its place is before others', not of its own aggregate.
        place = len(rows)
        while place and rows[place - 1].key != event.aggregate_id and self.random.random() < 0.3:
            place -= 1
        rows.insert(place, Row(event))

    def _requeue(self) -> None:
        """Somebody mends the cause and lets a failed event try again, while the later ones of its key wait for it."""
        if failed := [row for row in self.world.database.rows if row.status == "ERR"]:
            row = self.random.choice(failed)
            self.world.broker.bad.discard(row.event.id)
            row.status, row.retries = "NEW", 0

    async def _calm_down(self) -> None:
        world = self.world
        world.scheduler.trouble = False
        for owner in world.database.owners.values():
            owner.expired = True
        for member in world.database.members.values():
            member.is_quiet = True
        self._start_worker()
        for _ in range(CALM_STEPS):
            if not world.database.flying and not any(self._may_go(row) for row in world.database.rows):
                return
            await world.scheduler.go_on()
        raise AssertionError("rows are stuck")

    def _may_go(self, row: Row) -> bool:
        return row.status == "NEW" and not (self.world.database.hold_aggregates and self._failed_before(row))

    def _failed_before(self, row: Row) -> bool:
        rows = self.world.database.rows
        return any(before.status == "ERR" and before.key == row.key for before in rows[: rows.index(row)])

    def check(self) -> None:
        """The topics hold what is SENT, once each, in the order of each aggregate."""
        rows, broker = self.world.database.rows, self.world.broker
        sent = [row.event for row in rows if row.status == "SENT"]
        assert sorted(broker.log) == sorted(event.id for event in sent), "lost or doubled"
        at_fault = {row.event.id for row in rows if row.event.id in broker.bad and row.status != "NEW"}
        errors = {row.event.id for row in rows if row.status == "ERR"}
        assert errors == at_fault, "an event in ERR that was not at fault, or the other way round"
        for topic, ids in broker.topics.items() if self.world.database.ordered else ():
            wanted = [event for event in sent if (event.topic or "topic") == topic]
            assert _by_aggregate(ids, wanted) == _by_aggregate([event.id for event in wanted], wanted), "out of order"
        assert self.world.observed.behind == 0, "a fresh flight was taken for a duplicate"


def _by_aggregate(ids: list[UUID], events: list[Envelope]) -> dict[str, list[UUID]]:
    aggregate = {event.id: event.aggregate_id for event in events}
    found: dict[str, list[UUID]] = defaultdict(list)
    for event_id in ids:
        found[aggregate[event_id]].append(event_id)
    return found


async def run(seed: int) -> None:
    """One schedule. Raises AssertionError."""
    schedule = Schedule(seed)
    try:
        await schedule.run()
        schedule.check()
    finally:
        for task in schedule.world.tasks.values():
            task.cancel()
        ended = await asyncio.gather(*schedule.world.tasks.values(), return_exceptions=True)
        defects = [end for end in ended if isinstance(end, Exception)]
        assert not defects, defects


async def failures(schedules: int) -> AsyncIterator[str]:
    """What the schedules that fail have to say."""
    for seed in range(schedules):
        try:
            await run(seed)
        except AssertionError as error:
            yield str(error)


@pytest.mark.timeout(max(300, SCHEDULES))
async def test_every_row_is_published_once_and_in_order() -> None:
    for seed in range(SCHEDULES):
        try:
            await run(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def _ids_do_not_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flight begins at the id of the first."""
    claim = Database._claim

    def forgetful(self: Database, lease: Lease, turn: Turn) -> Turned:
        self.next_sequence.clear()
        return claim(self, lease, Turn(limit=turn.limit, floors=dict.fromkeys(turn.floors, 1)))

    monkeypatch.setattr(Database, "_claim", forgetful)


def _no_fencing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A former owner goes on publishing, with ids of its own."""

    def publish(self: Broker, place: tuple[str, int], connection: str, flight: Flight) -> bool:
        self.store(place, flight)
        return True

    monkeypatch.setattr(Broker, "publish", publish)


def _no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A former owner goes on writing."""
    monkeypatch.setattr(Database, "_hold", lambda *_: None)


def _no_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier owner began is claimed anew instead of sent again."""

    async def forget(self: Lane) -> None:
        flights = await self._store.open_flights(self._lease)
        await self._turn(Turn(withdrawn=flights))

    monkeypatch.setattr(Lane, "_recover", forget)


def _refusals_are_overtaken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was claimed meanwhile goes on although rows before it have to wait."""
    monkeypatch.setattr(Turn, "reverses", property(lambda _: False))


def _lanes_change_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of lanes changes while flights have not landed."""
    monkeypatch.setattr(Database, "flying", property(lambda _: []))


def _owners_outlive_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of lanes changes, and who owned one of the former lanes goes on."""

    def change(self: Database, lanes: int) -> bool:
        if not self.flying:
            self.lanes = lanes
        return not self.flying

    monkeypatch.setattr(Database, "change", change)


def _the_cut_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flight is sent again as its next owner would cut it."""
    open_flights = Database.open_flights

    def recut(self: Database, lease: Lease) -> list[Flight]:
        return [replace(flight, by_key=self.by_key) for flight in open_flights(self, lease)]

    monkeypatch.setattr(Database, "open_flights", recut)


@pytest.mark.timeout(max(300, SCHEDULES))
@pytest.mark.parametrize(
    ("break_it", "found"),
    [
        (_ids_do_not_rise, "rows are stuck"),
        (_no_fencing, "lost or doubled"),
        (_no_epoch, "lost or doubled"),
        (_no_recovery, "lost or doubled"),
        (_the_cut_is_forgotten, "lost or doubled"),
        (_refusals_are_overtaken, "out of order"),
        (_lanes_change_at_once, "lost or doubled"),
        (_owners_outlive_the_layout, "lost or doubled"),
    ],
)
async def test_the_model_finds_a_protocol_that_is_broken(
    break_it: Callable[[pytest.MonkeyPatch], None], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_it(monkeypatch)

    assert found in {reason async for reason in _until(found, failures(SCHEDULES))}


async def _until(found: str, reasons: AsyncIterator[str]) -> AsyncIterator[str]:
    async for reason in reasons:
        short = reason.partition("\n")[0]
        yield short
        if short == found:
            return
