"""Who leads, on a clock that is moved by hand and a cluster in memory."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox_operator.election import (
    DURATION_SECONDS,
    RENEW_DEADLINE_SECONDS,
    REQUEST_SECONDS,
    Election,
    LeadershipLost,
    Record,
    Step,
    decide,
)
from outbox_operator.errors import Unreachable
from outbox_operator.keys import FIELD_MANAGER, LEASE
from outbox_operator.testing import InMemoryCluster, ManualClock


def held_by(holder: str, duration: float = DURATION_SECONDS) -> Record:
    return Record(holder=holder, duration_seconds=duration, transitions=1, acquired=None, version="1")


@pytest.mark.parametrize(
    ("record", "unchanged", "step"),
    [
        (None, 0, Step.CREATE),
        (held_by("me"), 0, Step.RENEW),
        (held_by("me"), 1000, Step.RENEW),
        (held_by("other"), 0, Step.WAIT),
        (held_by("other"), DURATION_SECONDS - 0.1, Step.WAIT),
        (held_by("other"), DURATION_SECONDS, Step.TAKE),
        (held_by("other", duration=60), DURATION_SECONDS, Step.WAIT),
        (held_by(""), 0, Step.TAKE),
    ],
)
def test_decisions(record: Record | None, unchanged: float, step: Step) -> None:
    assert decide(record, me="me", unchanged_seconds=unchanged) is step


def test_a_leader_is_gone_before_another_may_come() -> None:
    assert RENEW_DEADLINE_SECONDS + REQUEST_SECONDS < DURATION_SECONDS


class World:
    def __init__(self) -> None:
        self.cluster, self.clock = InMemoryCluster(), ManualClock()
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def replica(self, name: str) -> Election:
        return Election(
            self.cluster, namespace="outbox", name="outbox-operator", me=name, clock=self.clock, now=lambda: self.now
        )

    def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.cluster.read(LEASE, "outbox", "outbox-operator")["spec"]
        return spec

    async def run(self, *replicas: Election, seconds: float) -> None:
        """Lets each look at the Lease once a second."""
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.now += timedelta(seconds=1)
            for replica in replicas:
                await replica.step()

    async def step_at_once(self, *replicas: Election) -> None:
        """Each has read the Lease before any of them writes it."""
        get, all_have_read = self.cluster.get, asyncio.Barrier(len(replicas))

        async def slow(*args: Any) -> Any:
            try:
                return await get(*args)
            finally:
                await all_have_read.wait()

        self.cluster.get = slow  # type: ignore[method-assign] # of this one cluster
        await asyncio.gather(*(replica.step() for replica in replicas))


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_leads_and_the_second_stands_by(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    await world.run(a, b, seconds=100)
    assert (a.holds, b.holds) == (True, False)
    assert world.lease() == {
        "holderIdentity": "a",
        "leaseDurationSeconds": DURATION_SECONDS,
        "acquireTime": "2026-03-01T12:00:01.000000Z",
        "renewTime": "2026-03-01T12:01:40.000000Z",
        "leaseTransitions": 1,
    }


async def test_a_given_back_lease_is_taken_at_the_next_look(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    await world.run(a, b, seconds=5)
    await a.release()
    assert not a.holds
    await b.step()
    assert (b.holds, b.ran_out) == (True, False)
    assert (world.lease()["holderIdentity"], world.lease()["leaseTransitions"]) == ("b", 2)


async def test_the_lease_does_not_grow_with_those_who_led(world: World) -> None:
    """The API server keeps an entry for each field manager, for ever, and all of them are in each renewal."""
    for name in "abcde":
        replica = world.replica(name)
        await world.run(replica, seconds=3)
        assert world.lease()["holderIdentity"] == name
        await replica.release()
    assert world.cluster.managers(LEASE, "outbox", "outbox-operator") == {"a", FIELD_MANAGER}


async def test_a_lease_is_given_back_though_the_answer_to_a_renewal_never_came(world: World) -> None:
    a = world.replica("a")
    await world.run(a, seconds=1)
    spec = {**world.lease(), "renewTime": "2030-01-01T00:00:00.000000Z"}
    world.cluster.create(LEASE, {"metadata": {"namespace": "outbox", "name": "outbox-operator"}, "spec": spec})
    await a.release()
    assert world.lease()["holderIdentity"] == ""


async def test_a_dead_leader_is_followed_when_its_lease_has_run_out(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    await world.run(a, b, seconds=5)
    await world.run(b, seconds=DURATION_SECONDS - 1)
    assert not b.holds
    await world.run(b, seconds=1)
    assert b.holds


async def test_a_replica_that_starts_waits_a_whole_duration_whatever_the_lease_says(world: World) -> None:
    await world.run(world.replica("a"), seconds=1)
    world.now = datetime(2030, 1, 1, tzinfo=UTC)  # Its clock is years ahead.
    b = world.replica("b")
    await world.run(b, seconds=DURATION_SECONDS)
    assert not b.holds


async def test_of_several_that_see_nobody_one_leads(world: World) -> None:
    replicas = [world.replica(name) for name in "abc"]
    await world.step_at_once(*replicas)
    assert [replica.holds for replica in replicas].count(True) == 1


async def test_of_two_that_see_the_same_lease_run_out_one_leads(world: World) -> None:
    a, b, c = (world.replica(name) for name in "abc")
    await world.run(a, b, c, seconds=1)
    world.clock.advance(DURATION_SECONDS)
    await world.step_at_once(b, c)
    assert [b.holds, c.holds].count(True) == 1


async def test_a_leader_that_is_cut_off_ends_in_time(world: World) -> None:
    a = world.replica("a")
    await world.run(a, seconds=1)
    world.cluster.refusals[LEASE] = Unreachable("no route to host")
    await world.run(a, seconds=RENEW_DEADLINE_SECONDS - 1)
    assert a.holds
    world.clock.advance(1)
    assert not a.holds
    with pytest.raises(LeadershipLost, match="not renewed for 8 seconds"):
        await a.step()


async def test_that_a_lease_had_run_out_is_known_though_the_answer_to_its_taking_never_came(world: World) -> None:
    """It may be an API server that is only just coming back, after a time in which no projector could report."""
    a, b = world.replica("a"), world.replica("b")
    await world.run(a, b, seconds=1)
    await world.run(b, seconds=DURATION_SECONDS - 1)
    apply = world.cluster.apply

    async def answers_get_lost(*args: Any, **how: Any) -> Any:
        await apply(*args, **how)
        raise TimeoutError

    world.cluster.apply = answers_get_lost  # type: ignore[method-assign] # of this one cluster
    await world.run(b, seconds=1)
    assert (world.lease()["holderIdentity"], b.holds) == ("b", False)
    world.cluster.apply = apply  # type: ignore[method-assign] # of this one cluster
    await world.run(b, seconds=1)
    assert (b.holds, b.ran_out) == (True, True)


async def test_an_outage_that_ends_in_time_costs_nothing(world: World) -> None:
    a = world.replica("a")
    await world.run(a, seconds=1)
    world.cluster.refusals[LEASE] = Unreachable("no route to host")
    await world.run(a, seconds=RENEW_DEADLINE_SECONDS - 2)
    del world.cluster.refusals[LEASE]
    await world.run(a, seconds=60)
    assert a.holds


async def test_a_leader_that_was_suspended_finds_out_before_it_writes(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    await world.run(a, b, seconds=1)
    await world.run(b, seconds=DURATION_SECONDS + 1)
    assert (a.holds, b.holds, b.ran_out) == (False, True, True)
    with pytest.raises(LeadershipLost):
        await a.step()
    await a.release()
    assert world.lease()["holderIdentity"] == "b"


@pytest.mark.parametrize("edit", ["somebody else", ""])
async def test_a_lease_that_was_taken_away_is_lost(world: World, edit: str) -> None:
    a = world.replica("a")
    await world.run(a, seconds=1)
    world.cluster.create(
        LEASE, {"metadata": {"namespace": "outbox", "name": "outbox-operator"}, "spec": {"holderIdentity": edit}}
    )
    with pytest.raises(LeadershipLost):
        await a.step()


async def test_a_lease_that_was_deleted_is_lost(world: World) -> None:
    a = world.replica("a")
    await world.run(a, seconds=1)
    world.cluster.delete(LEASE, "outbox", "outbox-operator")
    with pytest.raises(LeadershipLost, match="held by nobody"):
        await a.step()
