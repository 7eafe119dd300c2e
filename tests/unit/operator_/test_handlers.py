"""The seam to kopf: events move into cache and queue, and nothing is registered that would make kopf write."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from outbox_operator import handlers
from outbox_operator.cache import Cache
from outbox_operator.cluster import Credentials
from outbox_operator.keys import DEPLOYMENT, LABEL, OUTBOX_TENANT, WATCHED, Key
from outbox_operator.testing import ManualClock
from outbox_operator.watching import GRACE_SECONDS, WatchMonitor
from outbox_operator.workqueue import WorkQueue
from tests.unit.operator_.conftest import build_tenant

Manifest = dict[str, Any]


class Recorder(WorkQueue[Key]):
    """Remembers what was asked for."""

    def __init__(self) -> None:
        super().__init__(self._never, workers=1, clock=ManualClock(), random=lambda: 0.5)
        self.added: list[Key] = []
        self.ahead: list[Key] = []

    async def _never(self, key: Key) -> None:
        raise AssertionError(key)

    def add(self, key: Key, *, ahead: bool = False) -> None:
        self.added.append(key)
        if ahead:
            self.ahead.append(key)


async def login() -> Credentials:
    return Credentials("https://api", "/ca", None, None, "token", insecure=False)


class Seam:
    def __init__(self) -> None:
        self.queue = Recorder()
        self.cache = Cache(wake=self.queue.add)
        self.clock = ManualClock()
        self.watches = WatchMonitor(self.clock)
        self.listed = 0
        self.registry = handlers.registry(
            cache=self.cache, queue=self.queue, watches=self.watches, listing=self.listing, login=login
        )

    def listing(self) -> None:
        self.listed += 1

    def handlers(self, what: str) -> list[Any]:
        return list(getattr(self.registry, f"_{what}").get_all_handlers())

    async def event(self, plural: str, event: str | None, obj: Manifest) -> None:
        handler = next(h for h in self.handlers("watching") if h.selector.any_name == plural)
        await handler.fn(event={"type": event, "object": obj})


def tenant(version: int, name: str = "acme") -> Manifest:
    return build_tenant(name=name) | {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "uid": name,
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "resourceVersion": str(version),
        }
    }


def deployment(version: int, **metadata: Any) -> Manifest:
    base = {"namespace": "shop", "name": "acme-projector", "resourceVersion": str(version)}
    return {"metadata": base | metadata}


OWNED = {
    "ownerReferences": [
        {"apiVersion": "outbox.bento.dev/v1", "kind": "OutboxTenant", "name": "acme", "controller": True}
    ]
}


@pytest.fixture
def seam() -> Seam:
    return Seam()


def test_every_kind_is_watched_and_nothing_makes_kopf_write(seam: Seam) -> None:
    assert [h.selector.any_name for h in seam.handlers("watching")] == [kind.plural for kind in WATCHED]
    for writing in ("changing", "spawning", "indexing", "webhooks"):
        assert seam.handlers(writing) == []


@pytest.mark.parametrize("event", [None, "ADDED", "MODIFIED"])
async def test_news_of_a_tenant(seam: Seam, event: str | None) -> None:
    await seam.event("outboxtenants", event, tenant(1))
    assert seam.queue.added == [Key("shop", "acme")]
    assert seam.cache.get(OUTBOX_TENANT, "shop", "acme") == tenant(1)


async def test_a_new_tenant_comes_ahead_of_other_news(seam: Seam) -> None:
    await seam.event("outboxtenants", None, tenant(1, name="known"))
    await seam.event("outboxtenants", "ADDED", tenant(2, name="new"))
    await seam.event("outboxtenants", "MODIFIED", tenant(3, name="new"))
    await seam.event("deployments", "ADDED", deployment(4, **OWNED))
    assert seam.queue.ahead == [Key("shop", "new")]


async def test_a_watch_that_begins_says_so(seam: Seam) -> None:
    await seam.event("deployments", "MODIFIED", deployment(1, **OWNED))
    assert seam.listed == 0
    await seam.event("deployments", None, deployment(1, **OWNED))
    assert seam.listed == 1


async def test_what_is_known_already_is_no_news(seam: Seam) -> None:
    seam.cache.put(OUTBOX_TENANT, tenant(2))
    await seam.event("outboxtenants", "MODIFIED", tenant(2))
    await seam.event("outboxtenants", "DELETED", tenant(1))
    assert seam.queue.added == []


@pytest.mark.parametrize("metadata", [OWNED, {"labels": {LABEL: "acme"}}], ids=["by owner", "by label"])
async def test_news_of_a_child_are_news_of_its_tenant(seam: Seam, metadata: Manifest) -> None:
    await seam.event("deployments", "ADDED", deployment(1, **metadata))
    await seam.event("deployments", "DELETED", deployment(2, **metadata))
    assert seam.queue.added == [Key("shop", "acme")] * 2
    assert seam.cache.get(DEPLOYMENT, "shop", "acme-projector") is None


def test_only_children_with_our_label_are_watched() -> None:
    selectors = handlers.settings().watching.label_selectors
    assert len(selectors) == len(WATCHED) - 1
    assert set(selectors.values()) == {LABEL}


async def test_kopf_logs_in_as_the_client_does(seam: Seam) -> None:
    (handler,) = [h for h in seam.handlers("activities") if h.activity.value == "authentication"]
    connection = await handler.fn()
    assert (connection.server, connection.ca_path, connection.token) == ("https://api", "/ca", "token")


async def test_a_watch_that_tells_of_our_own_write_is_alive(seam: Seam) -> None:
    seam.watches.expect(OUTBOX_TENANT, tenant(5))
    await seam.event("outboxtenants", "MODIFIED", tenant(5))
    seam.clock.advance(GRACE_SECONDS)
    assert seam.watches.dead() is None


async def test_news_of_a_tenant_are_news_for_those_who_claim_the_same_rows(seam: Seam) -> None:
    await seam.event("outboxtenants", "ADDED", tenant(1))
    await seam.event("outboxtenants", "ADDED", tenant(2, "twin"))
    assert set(seam.queue.added) == {Key("shop", "acme"), Key("shop", "twin")}
    seam.queue.added.clear()
    await seam.event("outboxtenants", "DELETED", tenant(3))
    assert set(seam.queue.added) == {Key("shop", "acme"), Key("shop", "twin")}


def test_an_api_server_that_is_away_for_long_does_not_end_the_process() -> None:
    """kopf ends it after the last attempt; and each request begins with the short pauses."""
    for _ in range(2):
        pauses = list(islice(handlers.settings().networking.error_backoffs, 1000))
        assert (len(pauses), pauses[0], pauses[-1]) == (1000, 1.0, 3.0)
