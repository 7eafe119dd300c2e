"""The complete list: it fills the cache, finds what watches missed, and tells when it is overdue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from outbox_operator.cache import Cache
from outbox_operator.errors import Forbidden, NotFound, Unreachable
from outbox_operator.keys import DEPLOYMENT, LABEL, OUTBOX_TENANT, Key, Kind
from outbox_operator.resync import Resync
from outbox_operator.testing import InMemoryCluster, ManualClock
from outbox_operator.watching import WatchMonitor
from outbox_operator.workqueue import WorkQueue
from tests.support.waiting import eventually
from tests.unit.operator_.conftest import build_tenant

Manifest = dict[str, Any]


class Fixture:
    def __init__(self, *namespaces: str, interval_seconds: float = 600) -> None:
        self.cluster, self.clock = InMemoryCluster(), ManualClock()
        self.looked: list[Key] = []
        self.queue = WorkQueue[Key](self.look, workers=1, clock=self.clock, random=lambda: 0.5)
        self.cache = Cache(wake=self.queue.add)
        self.resync = Resync(
            cluster=self.cluster,
            cache=self.cache,
            queue=self.queue,
            watches=WatchMonitor(self.clock),
            namespaces=namespaces,
            interval_seconds=interval_seconds,
            clock=self.clock,
        )

    async def look(self, key: Key) -> None:
        self.looked.append(key)
        self.queue.stop()

    def create(self, kind: Kind, namespace: str, name: str) -> None:
        spec = {"spec": build_tenant()["spec"]} if kind == OUTBOX_TENANT else {}
        self.cluster.create(kind, {"metadata": {"namespace": namespace, "name": name, "labels": {LABEL: name}}, **spec})


async def test_it_fills_the_cache_and_asks_for_a_look_at_every_tenant() -> None:
    fixture = Fixture()
    fixture.create(OUTBOX_TENANT, "shop", "acme")
    fixture.create(DEPLOYMENT, "shop", "acme-projector")
    await fixture.resync.once()
    assert fixture.cache.get(DEPLOYMENT, "shop", "acme-projector") is not None
    await fixture.queue.run()
    assert fixture.looked == [Key("shop", "acme")]


async def test_it_finds_what_vanished_unseen() -> None:
    fixture = Fixture()
    fixture.create(DEPLOYMENT, "shop", "acme-projector")
    await fixture.resync.once()
    fixture.cluster.delete(DEPLOYMENT, "shop", "acme-projector")
    await fixture.resync.once()
    assert fixture.cache.get(DEPLOYMENT, "shop", "acme-projector") is None


async def test_it_asks_for_a_look_at_a_tenant_that_vanished_unseen() -> None:
    """Which lets go of what is kept for it, such as its place among the rollouts."""
    fixture = Fixture()
    fixture.create(OUTBOX_TENANT, "shop", "acme")
    fixture.cache.put(OUTBOX_TENANT, fixture.cluster.read(OUTBOX_TENANT, "shop", "acme"))
    fixture.cluster.delete(OUTBOX_TENANT, "shop", "acme")
    assert fixture.queue.waiting == 0
    await fixture.resync.once()
    assert fixture.queue.waiting == 1


async def test_a_namespace_that_may_not_be_read_any_more_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a namespace is deleted, the Role that let us read it goes along."""
    fixture = Fixture("shop", "bank")
    fixture.create(OUTBOX_TENANT, "shop", "acme")
    forbidden, works = {"bank"}, fixture.cluster.list

    def some(kind: Kind, namespace: str | None) -> AsyncIterator[Manifest]:
        if namespace in forbidden:
            raise Forbidden("may not list")
        return works(kind, namespace)

    monkeypatch.setattr(fixture.cluster, "list", some)
    await fixture.resync.once()
    assert fixture.cache.get(OUTBOX_TENANT, "shop", "acme") is not None

    forbidden.add("shop")
    with pytest.raises(Forbidden):
        await fixture.resync.once()
    assert fixture.cache.get(OUTBOX_TENANT, "shop", "acme") is not None


async def test_a_pass_that_is_asked_for_comes_soon_and_is_repeated_when_it_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("outbox_operator.resync.QUIET_SECONDS", 0.0)
    fixture = Fixture()
    fixture.create(DEPLOYMENT, "shop", "acme-projector")
    running = asyncio.create_task(fixture.resync.run())
    await fixture.resync.done_once.wait()
    fixture.cluster.delete(DEPLOYMENT, "shop", "acme-projector")
    failures, works = [Unreachable("down"), Unreachable("down")], fixture.cluster.list

    def fails_twice(kind: Kind, namespace: str | None) -> AsyncIterator[Manifest]:
        if failures:
            raise failures.pop()
        return works(kind, namespace)

    monkeypatch.setattr(fixture.cluster, "list", fails_twice)
    fixture.resync.soon()

    async def has_noticed() -> bool:
        return fixture.cache.get(DEPLOYMENT, "shop", "acme-projector") is None

    await eventually(has_noticed)
    running.cancel()


async def test_a_pass_comes_with_time_though_nobody_asks() -> None:
    fixture = Fixture(interval_seconds=0.01)
    fixture.create(DEPLOYMENT, "shop", "acme-projector")
    running = asyncio.create_task(fixture.resync.run())
    await fixture.resync.done_once.wait()
    fixture.cluster.delete(DEPLOYMENT, "shop", "acme-projector")

    async def has_noticed() -> bool:
        return fixture.cache.get(DEPLOYMENT, "shop", "acme-projector") is None

    await eventually(has_noticed)
    running.cancel()


async def test_a_pass_is_not_put_off_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a watch that begins anew again and again."""
    monkeypatch.setattr("outbox_operator.resync.QUIET_SECONDS", 3600.0)
    monkeypatch.setattr("outbox_operator.resync.LONGEST_QUEST_SECONDS", 0.0)
    fixture = Fixture()
    running = asyncio.create_task(fixture.resync.run())
    await fixture.resync.done_once.wait()
    fixture.create(OUTBOX_TENANT, "shop", "acme")
    fixture.resync.soon()

    async def has_noticed() -> bool:
        return fixture.cache.get(OUTBOX_TENANT, "shop", "acme") is not None

    await eventually(has_noticed)
    running.cancel()


async def test_it_stays_inside_the_namespaces_it_was_given() -> None:
    fixture = Fixture("shop", "bank")
    for namespace in ("shop", "bank", "other"):
        fixture.create(OUTBOX_TENANT, namespace, "acme")
    await fixture.resync.once()
    assert set(fixture.cache.tenants()) == {Key("shop", "acme"), Key("bank", "acme")}


async def test_a_missing_kind_is_said_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = Fixture()

    async def not_found(kind: Kind, namespace: str | None) -> Any:
        raise NotFound("the server could not find the requested resource")
        yield

    monkeypatch.setattr(fixture.cluster, "list", not_found)
    with pytest.raises(NotFound, match=r"kubectl apply -f crds/outboxtenants\.yaml"):
        await fixture.resync.once()
    assert not fixture.resync.done_once.is_set()


async def test_it_is_overdue_before_the_first_and_long_after_the_last_list() -> None:
    fixture = Fixture()
    assert "not done yet" in (fixture.resync.overdue() or "")
    await fixture.resync.once()
    fixture.clock.advance(1799)
    assert fixture.resync.overdue() is None
    fixture.clock.advance(1)
    assert "1800 seconds old" in (fixture.resync.overdue() or "")
