"""Who of several OutboxTenants delivers the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from outbox_operator.claims import Claims
from outbox_operator.keys import Key
from tests.unit.operator_.conftest import build_tenant

A, B = Key("shop", "a"), Key("shop", "b")


def tenant(name: str, created: int, *, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    built = build_tenant(name=name, **spec)
    built["metadata"] |= {"namespace": namespace, "uid": name, "creationTimestamp": f"2026-03-01T10:00:{created:02}Z"}
    return built


def claims(*tenants: dict[str, Any], wake: Callable[[Key], None] = lambda _: None) -> Claims:
    found = Claims(wake=wake)
    for each in tenants:
        found.put(each)
    return found


def test_the_older_delivers_in_whatever_order_they_are_seen() -> None:
    for order in ([tenant("b", 1), tenant("a", 2)], [tenant("a", 2), tenant("b", 1)]):
        assert claims(*order).winner(A) == claims(*order).winner(B) == B


def test_of_the_same_second_all_see_the_same_winner() -> None:
    assert {claims(tenant("a", 1), tenant("b", 1)).winner(key) for key in (A, B)} == {A}


@pytest.mark.parametrize(
    "other",
    [
        {"tenantId": "globex"},
        {"database": {"table": "events"}},
        {"database": {"schema": "sales"}},
        {"database": {"urlSecretRef": {"name": "other"}}},
        {"database": {"urlSecretRef": {"key": "other"}}},
        {"namespace": "staging"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_rows_are_no_conflict(other: dict[str, Any]) -> None:
    found = claims(tenant("a", 1), tenant("b", 2, **other))
    assert found.winner(Key(other.get("namespace", "shop"), "b")).name == "b"
    assert found.others(A) == set()


def test_where_the_events_go_makes_no_difference() -> None:
    assert claims(tenant("a", 1), tenant("b", 2, pulsar={"topic": "persistent://x/y/z"})).winner(B) == A


def test_who_goes_or_changes_leaves_the_rows_to_the_next() -> None:
    found = claims(tenant("a", 1), tenant("b", 2))
    found.forget(A)
    assert found.winner(B) == B
    found = claims(tenant("a", 1), tenant("b", 2), tenant("a", 1, tenantId="globex"))
    assert found.winner(B) == B
    assert found.others(B) == set()


def test_nobody_known_conflicts_with_nobody() -> None:
    assert claims().winner(A) == A


def test_who_claims_the_same_is_woken_by_each_change_of_it_and_by_nothing_else() -> None:
    woken: list[Key] = []
    found = claims(tenant("a", 1), wake=woken.append)
    assert woken == []

    def woken_by(change: Callable[[], None]) -> list[Key]:
        woken.clear()
        change()
        return list(woken)

    assert woken_by(lambda: found.put(tenant("b", 2))) == [A]
    assert woken_by(lambda: found.put(tenant("b", 2, replicas=3))) == []
    assert woken_by(lambda: found.put(tenant("b", 2, tenantId="globex"))) == [A]
    assert woken_by(lambda: found.put(tenant("b", 2))) == [A]
    assert woken_by(lambda: found.forget(A)) == [B]
    assert woken_by(lambda: found.forget(A)) == []
