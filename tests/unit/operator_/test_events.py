"""Which changes are news, and how equal ones become one Event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox_operator.events import FORGET_SECONDS, MESSAGE_BYTES, QUIET_SECONDS, News, Recorder, news
from outbox_operator.keys import EVENT
from outbox_operator.testing import InMemoryCluster
from tests.unit.operator_.conftest import build_tenant


def conditions(ready: str, degraded: str = "AsExpected") -> dict[str, Any]:
    """The operator's conditions with these reasons."""

    def condition(reason: str, good: str, good_status: str) -> dict[str, str]:
        bad_status = "False" if good_status == "True" else "True"
        return {"reason": reason, "status": good_status if reason == good else bad_status, "message": f"why {reason}"}

    return {
        "Ready": condition(ready, "Delivering", "True"),
        "Degraded": condition(degraded, "AsExpected", "False"),
    }


WELL = conditions("Delivering")


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, WELL, []),
        (WELL, WELL, []),
        (conditions("Starting"), WELL, [("Normal", "Delivering")]),
        (WELL, conditions("Paused"), [("Normal", "Paused")]),
        (WELL, conditions("NotReporting", "NotReporting"), [("Warning", "NotReporting")]),
        (conditions("NotReporting", "NotReporting"), WELL, [("Normal", "Delivering")]),
        (WELL, conditions("Delivering", "EventsInError"), [("Warning", "EventsInError")]),
        (conditions("Delivering", "EventsInError"), WELL, []),
        (
            WELL,
            conditions("BrokerUnreachable", "RolloutFailed"),
            [("Warning", "BrokerUnreachable"), ("Warning", "RolloutFailed")],
        ),
    ],
)
def test_what_is_news(before: dict[str, Any], after: dict[str, Any], told: list[tuple[str, str]]) -> None:
    assert [(what.kind, what.reason) for what in news(before, after)] == told


class World:
    def __init__(self) -> None:
        self.cluster = InMemoryCluster()
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)
        self.recorder = Recorder(self.cluster, now=lambda: self.now)

    async def happens(self, message: str = "no route", *, after: float = 0, reason: str = "BrokerUnreachable") -> None:
        self.now += timedelta(seconds=after)
        await self.recorder.record(build_tenant(), News("Warning", reason, message))

    def events(self) -> list[dict[str, Any]]:
        names = dict.fromkeys(what.removeprefix("Event ") for what in self.cluster.writes)
        return [self.cluster.read(EVENT, "shop", name) for name in names]


async def test_what_happens_again_is_counted_in_the_same_event() -> None:
    world = World()
    await world.happens()
    await world.happens("refused", after=QUIET_SECONDS)
    (event,) = world.events()
    assert (event["count"], event["message"]) == (2, "refused")
    assert event["firstTimestamp"] == "2026-03-01T12:00:00Z"
    assert event["lastTimestamp"] == "2026-03-01T12:01:00Z"


async def test_who_flaps_costs_one_write_a_minute() -> None:
    world = World()
    for _ in range(QUIET_SECONDS):
        await world.happens(after=1)
    assert len(world.cluster.writes) == 1
    await world.happens(after=1)
    assert len(world.cluster.writes) == 2
    assert world.events()[0]["count"] == QUIET_SECONDS + 1


async def test_other_reasons_are_other_events() -> None:
    world = World()
    await world.happens()
    await world.happens(reason="NotReporting")
    assert len(world.events()) == 2


async def test_what_was_long_ago_is_not_counted() -> None:
    world = World()
    await world.happens()
    await world.happens(after=FORGET_SECONDS + 1)
    assert [event["count"] for event in world.events()] == [1, 1]


async def test_another_process_counts_nothing_down() -> None:
    """It can't know how often it happened before."""
    world = World()
    await world.happens()
    await world.happens(after=QUIET_SECONDS)
    world.recorder = Recorder(world.cluster, now=lambda: world.now)
    await world.happens(after=QUIET_SECONDS)
    assert [(event["firstTimestamp"], event["count"]) for event in world.events()] == [
        ("2026-03-01T12:00:00Z", 2),
        ("2026-03-01T12:02:00Z", 1),
    ]


async def test_a_message_fits_whatever_its_letters() -> None:
    world = World()
    await world.happens("ü" * MESSAGE_BYTES)
    message = world.events()[0]["message"]
    assert message == "ü" * (MESSAGE_BYTES // 2)
