"""Who takes which lane: a table of cases, and fleets of any size that come to rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox_projector.sharing import Decision, Fleet, decide


@pytest.mark.parametrize(
    ("fleet", "owned", "decision"),
    [
        pytest.param(Fleet(lanes=2, wanted=2), [], Decision(take=[0, 1]), id="alone"),
        pytest.param(Fleet(lanes=2, wanted=2), [0, 1], Decision(), id="all-is-well"),
        pytest.param(Fleet(lanes=2, wanted=2, members=2, rank=1, taken=[0, 1]), [], Decision(), id="nothing-is-free"),
        pytest.param(Fleet(lanes=2, wanted=2, members=2), [0, 1], Decision(give_back=[1]), id="somebody-came"),
        pytest.param(Fleet(lanes=2, wanted=2, members=2, rank=1, taken=[0]), [], Decision(take=[1]), id="given-back"),
        pytest.param(Fleet(lanes=3, wanted=3, members=2), [0, 1], Decision(), id="the-oldest-has-one-more"),
        pytest.param(Fleet(lanes=1, wanted=1, members=2, rank=1), [], Decision(), id="stands-by"),
        pytest.param(
            Fleet(lanes=1, wanted=1, members=2, rank=1, expired=[0]), [], Decision(take=[0]), id="expired-is-anybodys"
        ),
        pytest.param(
            Fleet(lanes=4, wanted=4, members=2, expired=[2, 3], taken=[1]),
            [0],
            Decision(take=[2, 3]),
            id="more-for-now",
        ),
        pytest.param(Fleet(lanes=2, wanted=4, flying=[1]), [0, 1], Decision(give_back=[0, 1]), id="changing"),
        pytest.param(Fleet(lanes=2, wanted=4, flying=[1], taken=[1]), [], Decision(), id="its-owner-lands-it"),
        pytest.param(
            Fleet(lanes=2, wanted=4, flying=[1], expired=[1]), [], Decision(land=[1]), id="nobody-else-lands-it"
        ),
        pytest.param(Fleet(lanes=2, wanted=4), [], Decision(change=True), id="all-have-landed"),
    ],
)
def test_decisions(fleet: Fleet, owned: list[int], decision: Decision) -> None:
    assert decide(fleet, owned) == decision


@given(lanes=st.integers(1, 64), members=st.integers(1, 10), data=st.data())
def test_whoever_looks_in_whatever_order_all_lanes_are_owned_and_evenly(
    lanes: int, members: int, data: st.DataObject
) -> None:
    """From any state, and with any order of looks, everything comes to rest after a few of them each."""
    owner = {
        lane: data.draw(st.one_of(st.none(), st.integers(0, members - 1)), label=f"owner of {lane}")
        for lane in range(lanes)
    }
    for _ in range(3):
        for rank in data.draw(st.permutations(range(members))):
            owned = [lane for lane, who in owner.items() if who == rank]
            taken = [lane for lane, who in owner.items() if who not in (None, rank)]
            decision = decide(Fleet(lanes=lanes, wanted=lanes, members=members, rank=rank, taken=taken), owned)
            owner |= dict.fromkeys(decision.take, rank) | dict.fromkeys(decision.give_back, None)

    shares = [sum(who == rank for who in owner.values()) for rank in range(members)]
    assert sum(shares) == lanes
    assert max(shares) - min(shares) <= 1
