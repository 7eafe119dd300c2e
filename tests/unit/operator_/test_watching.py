"""A watch that says nothing more is found by what we know from elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from outbox_operator.keys import DEPLOYMENT, OUTBOX_TENANT
from outbox_operator.testing import ManualClock
from outbox_operator.watching import GRACE_SECONDS, WatchMonitor


def version(number: int, namespace: str = "shop") -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": "a", "resourceVersion": str(number)}}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watches(clock: ManualClock) -> WatchMonitor:
    return WatchMonitor(clock)


def test_a_watch_has_time_to_tell(clock: ManualClock, watches: WatchMonitor) -> None:
    watches.expect(DEPLOYMENT, version(7))
    clock.advance(GRACE_SECONDS - 1)
    assert watches.dead() is None
    clock.advance(1)
    assert watches.dead() == "the watch of deployments in shop has missed a change for 120 seconds"


@pytest.mark.parametrize("told", [7, 8], ids=["the same version", "a later one"])
def test_what_was_told_is_no_longer_expected(clock: ManualClock, watches: WatchMonitor, told: int) -> None:
    watches.expect(DEPLOYMENT, version(7))
    watches.seen(DEPLOYMENT, version(told))
    clock.advance(GRACE_SECONDS)
    assert watches.dead() is None


@pytest.mark.parametrize(
    ("kind", "event"),
    [(DEPLOYMENT, version(6)), (OUTBOX_TENANT, version(7)), (DEPLOYMENT, version(7, "bank"))],
    ids=["older news", "another kind", "another namespace"],
)
def test_other_news_do_not_count(clock: ManualClock, watches: WatchMonitor, kind: Any, event: Any) -> None:
    watches.expect(DEPLOYMENT, version(7))
    watches.seen(kind, event)
    clock.advance(GRACE_SECONDS)
    assert watches.dead() is not None


def test_later_writes_do_not_hide_what_was_missed_first(clock: ManualClock, watches: WatchMonitor) -> None:
    watches.expect(DEPLOYMENT, version(7))
    clock.advance(GRACE_SECONDS - 1)
    watches.expect(DEPLOYMENT, version(9))
    clock.advance(1)
    assert watches.dead() is not None
