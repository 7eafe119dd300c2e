"""Where claims begin to read."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox_projector.low_water import BOTTOM, LOOK_SECONDS, MOST_LOOKS, Look, LowWater
from tests.support.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def low_water(clock: Clock) -> LowWater:
    low_water = LowWater(clock)
    low_water.claimed()
    return low_water


def _marks(low_water: LowWater, *looks: Look | None) -> list[int]:
    marks = []
    for look in looks:
        low_water.looked(look, begin=BOTTOM, took=0.0)
        marks.append(low_water.mark)
    return marks


def test_it_rises_to_what_waited_before_all_that_is_open_now_began(low_water: LowWater) -> None:
    looks = [Look(lowest=100 * n, oldest_open=n, next_id=n) for n in range(1, 6)]

    assert _marks(low_water, *looks) == [BOTTOM, BOTTOM, 100, 200, 300]


def test_it_stays_while_a_transaction_is_open_that_may_hold_a_lower_row(low_water: LowWater) -> None:
    stays = [Look(lowest=100 * n, oldest_open=2, next_id=10 + n) for n in range(1, 3 * MOST_LOOKS)]
    assert set(_marks(low_water, *stays)) == {BOTTOM}

    ended = [Look(lowest=10_000, oldest_open=1000, next_id=1000)] * 3
    marks = _marks(low_water, *ended)
    assert marks == sorted(marks)
    assert (marks[0] > 100, marks[-1]) == (True, 10_000)


def test_what_comes_below_it_lowers_it(low_water: LowWater) -> None:
    looks = [Look(lowest=lowest, oldest_open=n, next_id=n) for n, lowest in enumerate((100, 200, 300, 50))]

    assert _marks(low_water, *looks) == [BOTTOM, BOTTOM, 100, 50]


def test_when_nothing_waits_claims_begin_at_the_bottom_and_it_does_not_look_until_rows_flow(
    low_water: LowWater, clock: Clock
) -> None:
    look = Look(lowest=100, oldest_open=1, next_id=1)
    assert _marks(low_water, look, look, look, None)[-2:] == [100, BOTTOM]
    clock.now += 1000
    assert low_water.look_from() is None

    low_water.claimed()
    assert low_water.look_from() == BOTTOM
    assert _marks(low_water, look) == [BOTTOM]


@pytest.mark.parametrize(("took", "pause"), [(0.0, LOOK_SECONDS), (0.5, 10.0)])
def test_it_looks_from_the_bottom_twice_a_second_and_less_often_where_that_takes_long(
    low_water: LowWater, clock: Clock, took: float, pause: float
) -> None:
    low_water.looked(Look(lowest=100, oldest_open=1, next_id=1), begin=BOTTOM, took=took)
    clock.now += pause - 0.01
    assert low_water.look_from() is None

    clock.now += 0.01
    assert low_water.look_from() == BOTTOM


def test_in_between_it_looks_from_the_mark(low_water: LowWater, clock: Clock) -> None:
    """A session that somebody has forgotten may keep millions of dead entries below it."""
    for number in range(1, 4):
        low_water.looked(Look(lowest=100 * number, oldest_open=number, next_id=number), begin=BOTTOM, took=1.0)
    assert low_water.look_from() is None
    clock.now += LOOK_SECONDS
    assert low_water.look_from() == low_water.mark == 100

    low_water.looked(Look(lowest=400, oldest_open=4, next_id=4), begin=100, took=0.0)
    assert low_water.mark == 200
    clock.now += 20.0
    assert low_water.look_from() == BOTTOM


def test_when_nothing_waits_above_the_mark_it_looks_below_at_once(low_water: LowWater, clock: Clock) -> None:
    for number in range(1, 4):
        low_water.looked(Look(lowest=100 * number, oldest_open=number, next_id=number), begin=BOTTOM, took=1.0)
    low_water.looked(None, begin=low_water.mark, took=0.0)
    assert low_water.look_from() == BOTTOM
    assert low_water.mark == 100


@dataclass
class _Writers:
    """Transactions that insert a row each, as Postgres sees them: the row's number first, the id a moment later."""

    numbers: int = 0
    ids: int = 1
    begun: list[int] = field(default_factory=list)  # rows whose transaction has no id yet
    open: dict[int, int] = field(default_factory=dict)  # id: row
    waiting: set[int] = field(default_factory=set)

    def look(self, begin: int) -> Look | None:
        from_there = [row for row in self.waiting if row >= begin]
        if not from_there:
            return None
        return Look(lowest=min(from_there), oldest_open=min([*self.open, self.ids]), next_id=self.ids)

    def do(self, step: str, which: int) -> None:
        if step in ("begin", "write"):
            self.numbers += 1
            self.begun.append(self.numbers)
        if step == "write":
            self.give_id(self.begun.pop())
            self.waiting.add(self.open.pop(self.ids - 1))
        elif step == "give" and self.begun:
            self.give_id(self.begun.pop(which % len(self.begun)))
        elif step == "settle":
            self.waiting.discard(min(self.waiting, default=0))
        elif step == "commit" and self.open:
            self.waiting.add(self.open.pop(sorted(self.open)[which % len(self.open)]))

    def give_ids(self) -> None:
        """Between two looks: more than half a second."""
        while self.begun:
            self.give_id(self.begun.pop())

    def give_id(self, row: int) -> None:
        self.open[self.ids] = row
        self.ids += 1


@settings(max_examples=500)
@given(
    st.lists(
        st.tuples(st.sampled_from(["begin", "write", "give", "commit", "settle", "look"]), st.integers(0, 9)),
        min_size=10,
        max_size=80,
    )
)
def test_nothing_comes_below_it(steps: list[tuple[str, int]]) -> None:
    """A claim from the mark takes what a claim from the bottom would."""
    low_water, writers = LowWater(Clock()), _Writers()
    for step, which in steps:
        if step == "look":
            begin = low_water.mark if which % 3 else BOTTOM
            low_water.looked(writers.look(begin), begin=begin, took=0.0)
            writers.give_ids()
        else:
            writers.do(step, which)
        assert all(row >= low_water.mark for row in writers.waiting)
        assert all(row >= low_water.mark for row in writers.open.values())
