"""The cache: newer news win, in whatever order they arrive."""

from __future__ import annotations

from typing import Any

import pytest

from outbox_operator.cache import Cache
from outbox_operator.keys import DEPLOYMENT, OUTBOX_TENANT, Key
from tests.unit.operator_.conftest import build_tenant

Manifest = dict[str, Any]


def obj(version: int, name: str = "a", **fields: Any) -> Manifest:
    tenant = build_tenant(name=name)
    metadata = {**tenant["metadata"], "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": tenant["spec"], **fields}


def version(cache: Cache, name: str = "a") -> str | None:
    found = cache.get(OUTBOX_TENANT, "shop", name)
    return found["metadata"]["resourceVersion"] if found else None


@pytest.fixture
def cache() -> Cache:
    return Cache()


def test_newer_news_win(cache: Cache) -> None:
    assert cache.put(OUTBOX_TENANT, obj(9))
    assert not cache.put(OUTBOX_TENANT, obj(9))
    assert not cache.put(OUTBOX_TENANT, obj(8))
    assert version(cache) == "9"
    assert cache.put(OUTBOX_TENANT, obj(10))
    assert version(cache) == "10"


def test_kinds_are_kept_apart(cache: Cache) -> None:
    cache.put(OUTBOX_TENANT, obj(1))
    assert cache.get(DEPLOYMENT, "shop", "a") is None
    cache.put(DEPLOYMENT, obj(2, "b"))
    assert cache.tenants() == [Key("shop", "a")]


def test_an_old_deletion_does_not_remove_a_new_object(cache: Cache) -> None:
    cache.put(OUTBOX_TENANT, obj(5))
    assert not cache.forget(OUTBOX_TENANT, obj(4))
    assert version(cache) == "5"
    assert cache.forget(OUTBOX_TENANT, obj(6))
    assert version(cache) is None
    assert not cache.forget(OUTBOX_TENANT, obj(6))


def test_what_was_written_before_its_deletion_does_not_come_back(cache: Cache) -> None:
    """The answer to a write of our own may come after the watch has told that the object was deleted."""
    cache.put(DEPLOYMENT, obj(5))
    cache.forget(DEPLOYMENT, obj(7))
    assert not cache.put(DEPLOYMENT, obj(6))
    assert cache.get(DEPLOYMENT, "shop", "a") is None
    assert cache.put(DEPLOYMENT, obj(8))


def test_so_does_what_was_never_known(cache: Cache) -> None:
    assert not cache.forget(DEPLOYMENT, obj(7))
    assert not cache.put(DEPLOYMENT, obj(6))


def test_only_so_many_deletions_are_remembered(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox_operator.cache.DELETIONS", 2)
    for name in "abc":
        cache.forget(DEPLOYMENT, obj(7, name))
    assert cache.put(DEPLOYMENT, obj(6, "a"))
    assert not cache.put(DEPLOYMENT, obj(6, "b"))


def test_readers_get_a_copy(cache: Cache) -> None:
    cache.put(DEPLOYMENT, obj(1, spec={"x": 1}))
    first = cache.get(DEPLOYMENT, "shop", "a")
    assert first is not None
    first["spec"]["x"] = 2
    assert cache.get(DEPLOYMENT, "shop", "a") == obj(1, spec={"x": 1})


def test_a_reader_may_want_a_part_only(cache: Cache) -> None:
    cache.put(OUTBOX_TENANT, obj(1, status={"replicas": 1}))
    assert cache.get(OUTBOX_TENANT, "shop", "a", only=("status", "missing")) == {"status": {"replicas": 1}}
    assert cache.get(OUTBOX_TENANT, "shop", "b", only=("status",)) is None


def test_field_owners_are_not_kept(cache: Cache) -> None:
    news = obj(1)
    news["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache.put(OUTBOX_TENANT, news)
    assert cache.get(OUTBOX_TENANT, "shop", "a") == obj(1)
    assert "managedFields" in news["metadata"]


def test_a_list_drops_what_has_vanished(cache: Cache) -> None:
    cache.put(OUTBOX_TENANT, obj(1, "gone"))
    cache.put(DEPLOYMENT, obj(1, "other kind"))
    with cache.listing(OUTBOX_TENANT) as listing:
        listing.add(obj(2))
    assert version(cache, "gone") is None
    assert version(cache) == "2"
    assert cache.get(DEPLOYMENT, "shop", "other kind") is not None


def test_a_list_does_not_drop_what_was_created_meanwhile(cache: Cache) -> None:
    with cache.listing(OUTBOX_TENANT):
        cache.put(OUTBOX_TENANT, obj(7))
    assert version(cache) == "7"


def test_a_list_does_not_bring_back_what_was_deleted_meanwhile(cache: Cache) -> None:
    cache.put(OUTBOX_TENANT, obj(1))
    with cache.listing(OUTBOX_TENANT) as listing:
        cache.forget(OUTBOX_TENANT, obj(5))
        listing.add(obj(1))
    assert version(cache) is None


def test_a_list_that_breaks_off_drops_nothing(cache: Cache) -> None:
    cache.put(OUTBOX_TENANT, obj(1))
    with pytest.raises(TimeoutError), cache.listing(OUTBOX_TENANT):
        raise TimeoutError
    assert version(cache) == "1"
