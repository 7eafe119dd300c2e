"""What the projector writes into the OutboxTenant's status, and what is worth a write."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from bento_outbox import BusUnavailable, __version__
from outbox_projector.health import Health
from outbox_projector.report import (
    SECONDS_A_WRITE,
    SETTLED_SECONDS,
    WRITES_AT_ONCE,
    Pace,
    Status,
    build_status,
    is_material,
)
from outbox_projector.store import COUNT_LIMIT, Backlog


def test_the_status_of_a_projector_that_has_work_and_trouble(health: Health, clock: Any) -> None:
    health.database_answered()
    health.settled(sent=7, retried=0, failed=0)
    clock.advance(60)
    health.broker_failed(BusUnavailable("Pulsar cannot be reached"))
    health.measured(Backlog(pending=12, errors=1, oldest_seconds=61.4))

    assert build_status(health, shown={}, events_per_second=3.4, now=clock()) == {
        "projector": {
            "pending": 12,
            "pendingIsLowerBound": False,
            "oldestPendingSeconds": 61,
            "errors": 1,
            "eventsPerSecond": 3,
            "lastPublishedTime": "2026-01-02T03:04:05Z",
            "reportedTime": "2026-01-02T03:05:05Z",
            "version": __version__,
        },
        "conditions": [
            {
                "type": "DatabaseReachable",
                "status": "True",
                "reason": "Connected",
                "message": "",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
            },
            {
                "type": "BrokerReachable",
                "status": "False",
                "reason": "BrokerUnreachable",
                "message": "Pulsar cannot be reached",
                "lastTransitionTime": "2026-01-02T03:05:05Z",
            },
            {
                "type": "EventsFailing",
                "status": "True",
                "reason": "EventsInError",
                "message": "1 event(s) in ERR: `bento-outbox errors list` shows why",
                "lastTransitionTime": "2026-01-02T03:05:05Z",
            },
        ],
    }


def test_what_was_never_measured_is_left_out_instead_of_being_called_zero(health: Health, clock: Any) -> None:
    status = build_status(health, shown={}, events_per_second=0, now=clock())

    assert status["projector"].keys() == {"eventsPerSecond", "reportedTime", "version"}


def test_a_backlog_beyond_what_is_counted_says_so(health: Health, clock: Any) -> None:
    health.measured(Backlog(pending=COUNT_LIMIT, errors=0, oldest_seconds=0))

    assert build_status(health, shown={}, events_per_second=0, now=clock())["projector"]["pendingIsLowerBound"] is True


def test_a_restart_is_no_transition(health: Health, clock: Any) -> None:
    health.broker_failed(BusUnavailable("Pulsar cannot be reached"))
    shown = {
        "projector": {"lastPublishedTime": "2025-12-24T18:00:00Z"},
        "conditions": [
            {"type": "BrokerReachable", "status": "False", "lastTransitionTime": "2025-12-25T00:00:00Z"},
            {"type": "EventsFailing", "status": "False", "lastTransitionTime": "2025-12-25T00:00:00Z"},
        ],
    }

    health.measured(Backlog(pending=0, errors=1, oldest_seconds=0))
    status = build_status(health, shown=shown, events_per_second=0, now=clock())

    since = {condition["type"]: condition["lastTransitionTime"] for condition in status["conditions"]}
    assert (since["BrokerReachable"], since["EventsFailing"]) == ("2025-12-25T00:00:00Z", "2026-01-02T03:04:05Z")
    assert status["projector"]["lastPublishedTime"] == "2025-12-24T18:00:00Z"


def _status(*, reason: str = "Connected", **projector: int) -> Status:
    conditions = [{"type": "DatabaseReachable", "status": "True", "reason": reason, "message": ""}]
    return {"conditions": conditions, "projector": projector}


@pytest.mark.parametrize(
    ("before", "after", "material"),
    [
        pytest.param(None, _status(), True, id="the first report"),
        pytest.param(_status(), _status(), False, id="nothing changed"),
        pytest.param(_status(), _status(reason="OutboxTableMissing"), True, id="a condition"),
        pytest.param(_status(), _status(errors=0), True, id="the first measurement"),
        pytest.param(_status(errors=0), _status(errors=1), True, id="an error came"),
        pytest.param(_status(errors=1), _status(errors=0), True, id="the errors went"),
        pytest.param(_status(pending=0), _status(pending=9), False, id="rows that come and go"),
        pytest.param(_status(eventsPerSecond=0), _status(eventsPerSecond=9), False, id="the rate"),
        pytest.param(_status(oldestPendingSeconds=0), _status(oldestPendingSeconds=1), False, id="a lag of a second"),
        pytest.param(_status(oldestPendingSeconds=0), _status(oldestPendingSeconds=2), True, id="a lag came"),
        pytest.param(_status(oldestPendingSeconds=2), _status(oldestPendingSeconds=0), True, id="the lag went"),
        pytest.param(_status(oldestPendingSeconds=60), _status(oldestPendingSeconds=89), False, id="it grew a little"),
        pytest.param(_status(oldestPendingSeconds=60), _status(oldestPendingSeconds=90), True, id="it grew by half"),
        pytest.param(_status(oldestPendingSeconds=90), _status(oldestPendingSeconds=60), True, id="it shrank likewise"),
    ],
)
def test_what_is_worth_a_write_before_the_next_heartbeat(before: Status | None, after: Status, material: bool) -> None:
    assert is_material(before, copy.deepcopy(after)) is material


# when it may be written


def test_material_changes_are_written_at_once_until_there_are_too_many() -> None:
    pace = Pace(60, uniform=max)
    written = 0
    while pace.allows(0, material=True):
        pace.wrote(0)
        written += 1

    # The first write of all is due whatever it says.
    assert written == WRITES_AT_ONCE
    assert not pace.allows(SECONDS_A_WRITE - 1, material=True)
    assert pace.allows(SECONDS_A_WRITE, material=True)


def test_a_tenant_that_flaps_writes_as_often_as_it_may_in_the_long_run() -> None:
    pace = Pace(10**6, uniform=max)
    writes, elapsed = 0, 0
    for _ in range(10_000):
        elapsed += 1
        if pace.allows(elapsed, material=True):
            pace.wrote(elapsed)
            writes, elapsed = writes + 1, 0

    assert writes == pytest.approx(10_000 / SECONDS_A_WRITE, abs=WRITES_AT_ONCE)


def test_anything_is_written_once_a_heartbeat_somewhat_early_at_random() -> None:
    pace = Pace(60, uniform=min)
    assert pace.allows(0, material=False)
    pace.wrote(0)

    assert not pace.allows(47.9, material=False)
    assert pace.allows(48, material=False)


def test_what_a_new_pod_says_is_said_again_when_the_pod_before_it_is_gone() -> None:
    """The pod before it may have spoken after it, of a spec that is no more."""
    pace = Pace(3600, uniform=max)
    pace.wrote(5)
    pace.wrote(2)
    assert not pace.allows(SETTLED_SECONDS - 1, material=False)
    assert pace.allows(SETTLED_SECONDS, material=False)

    pace.wrote(SETTLED_SECONDS)
    assert not pace.allows(3599, material=False)
