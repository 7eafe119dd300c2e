"""Where claims begin to read."""

from __future__ import annotations

import pytest

from outbox_projector.low_water import BOTTOM, LOOK_SECONDS, LowWater
from tests.support.clocks import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def low_water(clock: Clock) -> LowWater:
    low_water = LowWater(clock)
    low_water.claimed()
    return low_water


def test_it_begins_at_the_bottom_and_rises_to_what_waited_at_the_look_before(low_water: LowWater) -> None:
    values = []
    for lowest in (100, 200, 300):
        low_water.looked(lowest, took=0.0)
        values.append(low_water.mark)

    assert values == [BOTTOM, 100, 200]


def test_what_comes_below_it_lowers_it(low_water: LowWater) -> None:
    for lowest in (100, 200, 50):
        low_water.looked(lowest, took=0.0)

    assert low_water.mark == 50


def test_when_nothing_waits_claims_begin_at_the_bottom_and_it_does_not_look_until_rows_flow(
    low_water: LowWater, clock: Clock
) -> None:
    for lowest in (100, 200, None):
        low_water.looked(lowest, took=0.0)
    clock.now += 1000
    assert (low_water.mark, low_water.is_due()) == (BOTTOM, False)

    low_water.claimed()
    assert low_water.is_due()
    low_water.looked(300, took=0.0)
    assert low_water.mark == BOTTOM


@pytest.mark.parametrize(("took", "pause"), [(0.0, LOOK_SECONDS), (0.5, 10.0)])
def test_it_looks_once_a_second_and_less_often_where_that_takes_long(
    low_water: LowWater, clock: Clock, took: float, pause: float
) -> None:
    low_water.looked(100, took=took)
    clock.now += pause - 0.01
    assert not low_water.is_due()

    clock.now += 0.01
    assert low_water.is_due()
