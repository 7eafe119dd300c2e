"""What the watches told us last about every OutboxTenant and every child, so that a look makes no request to read.

Three parties write here: the watches (each event), the reconciler (the answers to its own writes, so that it never
acts twice on the same news) and the resync (complete lists). They arrive in any order; the resource version of an
object, which only ever grows, decides which news is newer. Readers get a copy of their own.

Whoever brings news asks for a look at the tenant that they are of. For a look at others that they concern the cache
asks by itself: to all but the first who bring them they are no news any more, and that one need not be a watch.

Objects are kept as compact JSON: some 10 KB per tenant with all its children, a seventh of what the same data takes as
Python objects. That is why thousands of tenants fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar, cast

import msgspec

from outbox_operator.claims import Claims
from outbox_operator.keys import OUTBOX_TENANT, Key, Kind, Manifest

T = TypeVar("T")

DELETIONS: Final = 10_000
"""So many are remembered, 2 MB; more than happen while an answer is on its way."""


class _Address(NamedTuple):
    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    data: bytes


class Cache:
    """See the module. `wake` asks for a look at a tenant."""

    def __init__(self, *, wake: Callable[[Key], None] = lambda _: None) -> None:
        self._entries: dict[_Address, _Entry] = {}
        self._wake = wake
        self.claims = Claims(wake=wake)
        """Which rows the known OutboxTenants claim; an index, kept by this class."""
        self._gone: dict[_Address, int] = {}
        """What was deleted last, with the version of the deletion: older news of it may still be on the way, as a part
        of a list or as the answer to a write of our own."""

    def put(self, kind: Kind, obj: Manifest) -> bool:
        """Remembers an object; False when the same or a newer version of it is known already, or its deletion is."""
        address, version = _address(kind, obj), _version(obj)
        known = self._entries.get(address)
        newest = self._gone.get(address, -1) if known is None else known.version
        if newest >= version:
            return False
        self._gone.pop(address, None)
        self._entries[address] = _Entry(version, msgspec.json.encode(_slim(obj)))
        if kind == OUTBOX_TENANT:
            self.claims.put(obj)
        return True

    def forget(self, kind: Kind, obj: Manifest) -> bool:
        """Drops an object that was deleted; False when it was not known, or a newer one of the same name is."""
        address, version = _address(kind, obj), _version(obj)
        known = self._entries.get(address)
        if known is not None and known.version > version:
            return False
        self._gone[address] = version
        if len(self._gone) > DELETIONS:
            del self._gone[next(iter(self._gone))]
        if known is not None:
            self._drop(address)
        return known is not None

    def get(self, kind: Kind, namespace: str, name: str, *, only: Collection[str] = ()) -> Manifest | None:
        """An object, or of it only what is wanted: to read all of a Deployment takes most of the time of a look."""
        entry = self._entries.get(_Address(kind.plural, namespace, name))
        if entry is None:
            return None
        if not only:
            return cast(Manifest, msgspec.json.decode(entry.data))
        parts = msgspec.json.decode(entry.data, type=dict[str, msgspec.Raw])
        return {field: msgspec.json.decode(part) for field, part in parts.items() if field in only}

    def version(self, kind: Kind, namespace: str, name: str) -> int | None:
        """The resource version of an object, when it is known: another one whenever something about it is another."""
        entry = self._entries.get(_Address(kind.plural, namespace, name))
        return entry.version if entry is not None else None

    def tenants(self) -> list[Key]:
        """The keys of all known OutboxTenants."""
        return [Key(a.namespace, a.name) for a in self._entries if a.plural == OUTBOX_TENANT.plural]

    def each(self, kind: Kind, part: type[T]) -> Iterator[T]:
        """The named part of each object of a kind."""
        decoder = msgspec.json.Decoder(part)
        return (decoder.decode(entry.data) for a, entry in self._entries.items() if a.plural == kind.plural)

    @contextmanager
    def listing(self, kind: Kind) -> Iterator[Listing]:
        """Takes in a complete list of a kind. What is neither in it nor newer than its start is dropped at the end, and
        tenants among that are woken, since nobody else will ask for a look at them any more.
        """
        before = {a: entry.version for a, entry in self._entries.items() if a.plural == kind.plural}
        listing = Listing(self, kind)
        yield listing
        for address in before.keys() - listing.seen:
            entry = self._entries.get(address)
            if entry is not None and entry.version == before[address]:
                self._drop(address)
                if kind == OUTBOX_TENANT:
                    self._wake(Key(address.namespace, address.name))

    def _drop(self, address: _Address) -> None:
        del self._entries[address]
        if address.plural == OUTBOX_TENANT.plural:
            self.claims.forget(Key(address.namespace, address.name))


class Listing:
    """One complete list while it comes in."""

    def __init__(self, cache: Cache, kind: Kind) -> None:
        self._cache, self._kind = cache, kind
        self.seen: set[_Address] = set()

    def add(self, obj: Manifest) -> bool:
        """Takes in one object; False when it is no news."""
        self.seen.add(_address(self._kind, obj))
        return self._cache.put(self._kind, obj)


def _address(kind: Kind, obj: Manifest) -> _Address:
    return _Address(kind.plural, obj["metadata"]["namespace"], obj["metadata"]["name"])


def _version(obj: Manifest) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _slim(obj: Manifest) -> Manifest:
    """Without who owns which field: it is half of an object and nobody here reads it."""
    return obj | {"metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}
