"""Places for rollouts: who gets one, who waits, who is woken."""

from __future__ import annotations

from typing import Any

import pytest

from outbox_operator.keys import Key
from outbox_operator.rollouts import Rollouts, is_under_way

A, B, C, D = (Key("shop", name) for name in "abcd")


@pytest.fixture
def woken() -> list[Key]:
    return []


@pytest.fixture
def rollouts(woken: list[Key]) -> Rollouts:
    return Rollouts(2, wake=woken.append)


def test_as_many_as_there_are_places(rollouts: Rollouts) -> None:
    assert [rollouts.begin(key) for key in (A, B, C)] == [True, True, False]


def test_who_has_a_place_keeps_it(rollouts: Rollouts) -> None:
    assert [rollouts.begin(key) for key in (A, B, A)] == [True, True, True]


def test_those_who_wait_are_woken_in_their_order(rollouts: Rollouts, woken: list[Key]) -> None:
    for key in (A, B, C, D):
        rollouts.begin(key)
    rollouts.end(A)
    assert woken == [C]
    assert rollouts.begin(C)
    rollouts.end(B)
    assert woken == [C, D]


def test_who_no_longer_waits_does_not_stand_in_the_way(rollouts: Rollouts, woken: list[Key]) -> None:
    for key in (A, B, C, D):
        rollouts.begin(key)
    rollouts.end(A)
    rollouts.end(C)  # Woken, and has found nothing to do.
    assert woken == [C, D]


def test_who_waits_no_more_passes_its_call_on(rollouts: Rollouts, woken: list[Key]) -> None:
    for key in (A, B, C, D):
        rollouts.begin(key)
    rollouts.end(A)
    rollouts.leave(C)  # Woken, and goes on without a place.
    assert (woken, rollouts.count()) == ([C, D], (1, 1))


def test_who_has_a_place_does_not_leave_it(rollouts: Rollouts) -> None:
    rollouts.begin(A)
    rollouts.leave(A)
    assert rollouts.count() == (1, 0)


def test_who_never_had_a_place_wakes_nobody(rollouts: Rollouts, woken: list[Key]) -> None:
    for key in (A, B, C):
        rollouts.begin(key)
    rollouts.end(D)
    assert woken == []


def test_what_somebody_else_has_begun_counts(rollouts: Rollouts) -> None:
    for key in (A, B, C):
        rollouts.found(key)
    assert not rollouts.begin(D)
    assert rollouts.begin(C)


@pytest.mark.parametrize(
    ("status", "under_way"),
    [
        ({}, True),
        ({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}, True),
        ({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1}, True),
        ({"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}, False),
        ({"observedGeneration": 2}, False),
    ],
    ids=["just created", "not seen yet", "old pods wait", "only new pods", "no pods"],
)
def test_under_way(status: dict[str, Any], under_way: bool) -> None:
    assert is_under_way({"metadata": {"generation": 2}, "status": status}) == under_way
