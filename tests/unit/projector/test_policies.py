"""How long the projector waits."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from outbox_projector import Polling, Retries

_seconds = st.floats(0.001, 3600)


def longest(_low: float, high: float) -> float:
    """A draw that shows the upper bound."""
    return high


def shortest(low: float, _high: float) -> float:
    return low


def test_the_wait_doubles_until_it_reaches_the_longest() -> None:
    retries = Retries(initial_seconds=0.5, longest_seconds=5)

    assert [retries.wait(attempt, longest) for attempt in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]


def test_half_of_the_wait_is_random() -> None:
    retries = Retries(initial_seconds=0.5, longest_seconds=5)

    assert [retries.wait(attempt, shortest) for attempt in range(1, 7)] == [0.25, 0.5, 1, 2, 2.5, 2.5]


@given(initial=_seconds, bound=_seconds, attempt=st.integers(1, 10**9))
def test_the_wait_is_never_zero_and_never_above_the_longest(initial: float, bound: float, attempt: int) -> None:
    retries = Retries(initial_seconds=initial, longest_seconds=bound)

    assert 0 < retries.wait(attempt) <= bound


@given(initial=_seconds, bound=_seconds, attempt=st.integers(1, 100))
def test_a_later_attempt_never_has_a_lower_ceiling(initial: float, bound: float, attempt: int) -> None:
    retries = Retries(initial_seconds=initial, longest_seconds=bound)

    assert retries.wait(attempt, longest) <= retries.wait(attempt + 1, longest)


_pollings = st.tuples(_seconds, _seconds).map(sorted)


@given(_pollings, st.floats(0, 3600))
def test_the_pause_of_an_idle_projector_stays_between_its_bounds(bounds: list[float], last: float) -> None:
    polling = Polling(fastest_seconds=bounds[0], slowest_seconds=bounds[1])

    assert bounds[0] <= polling.next_pause(last) <= bounds[1]


def test_an_idle_projector_asks_less_and_less_often() -> None:
    polling, pauses = Polling(fastest_seconds=0.1, slowest_seconds=1), [0.0]
    for _ in range(6):
        pauses.append(polling.next_pause(pauses[-1]))

    assert pauses == [0, 0.1, 0.2, 0.4, 0.8, 1, 1]


@given(_seconds, _seconds)
def test_the_fastest_pause_cannot_be_longer_than_the_slowest(fastest: float, slowest: float) -> None:
    assume(fastest > slowest)

    with pytest.raises(ValueError, match="the fastest pause"):
        Polling(fastest_seconds=fastest, slowest_seconds=slowest)


def test_a_pause_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match=r"the fastest pause \(-1 s\) must lie between 0 and"):
        Polling(fastest_seconds=-1)
