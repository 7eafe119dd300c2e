"""What the watches told us last about every OutboxTenant and every child, so that a look makes no request to read.

Three parties write here: the watches (each event), the reconciler (the answers to its own writes, so that it never
acts twice on the same news) and the resync (complete lists). They arrive in any order; the resource version of an
object, which only ever grows, decides which news is newer. Readers get a copy of their own.

Objects are kept as compact JSON: some 3 KB per tenant with all its children, a tenth of what the same data takes as
Python objects. That is why thousands of tenants fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

import msgspec

from outbox_operator.claims import Claims
from outbox_operator.keys import OUTBOX_TENANT, Key, Kind, Manifest


class _Address(NamedTuple):
    plural: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    data: bytes


class Cache:
    """See the module."""

    def __init__(self) -> None:
        self._entries: dict[_Address, _Entry] = {}
        self.claims = Claims()
        """Which rows the known OutboxTenants claim; an index, kept by this class."""
        self._gone: dict[_Address, int] | None = None
        """While a listing runs: what was deleted since, with the version of the deletion."""

    def put(self, kind: Kind, obj: Manifest) -> bool:
        """Remembers an object; False when the same or a newer version of it is known already."""
        address, version = _address(kind, obj), _version(obj)
        known = self._entries.get(address)
        if known is not None and known.version >= version:
            return False
        self._entries[address] = _Entry(version, msgspec.json.encode(_slim(obj)))
        if kind == OUTBOX_TENANT:
            self.claims.put(obj)
        return True

    def forget(self, kind: Kind, obj: Manifest) -> bool:
        """Drops an object that was deleted; False when it was not known, or a newer one of the same name is."""
        address, version = _address(kind, obj), _version(obj)
        if self._gone is not None:
            self._gone[address] = version
        known = self._entries.get(address)
        if known is None or known.version > version:
            return False
        self._drop(address)
        return True

    def get(self, kind: Kind, namespace: str, name: str) -> Manifest | None:
        entry = self._entries.get(_Address(kind.plural, namespace, name))
        return cast(Manifest, msgspec.json.decode(entry.data)) if entry is not None else None

    def version(self, kind: Kind, namespace: str, name: str) -> int | None:
        """The resource version of an object, when it is known: another one whenever something about it is another."""
        entry = self._entries.get(_Address(kind.plural, namespace, name))
        return entry.version if entry is not None else None

    def tenants(self) -> list[Key]:
        """The keys of all known OutboxTenants."""
        return [Key(a.namespace, a.name) for a in self._entries if a.plural == OUTBOX_TENANT.plural]

    @contextmanager
    def listing(self, kind: Kind) -> Iterator[Listing]:
        """Takes in a complete list of a kind. What is neither in it nor newer than its start is dropped at the end."""
        before = {a: entry.version for a, entry in self._entries.items() if a.plural == kind.plural}
        self._gone = {}
        try:
            listing = Listing(self, kind, self._gone)
            yield listing
            for address in before.keys() - listing.seen:
                entry = self._entries.get(address)
                if entry is not None and entry.version == before[address]:
                    self._drop(address)
        finally:
            self._gone = None

    def _drop(self, address: _Address) -> None:
        del self._entries[address]
        if address.plural == OUTBOX_TENANT.plural:
            self.claims.forget(Key(address.namespace, address.name))


class Listing:
    """One complete list while it comes in."""

    def __init__(self, cache: Cache, kind: Kind, gone: dict[_Address, int]) -> None:
        self._cache, self._kind, self._gone = cache, kind, gone
        self.seen: set[_Address] = set()

    def add(self, obj: Manifest) -> bool:
        """Takes in one object; False when it is no news."""
        address = _address(self._kind, obj)
        self.seen.add(address)
        # The list may be older than the news that this object is gone.
        return self._gone.get(address, -1) < _version(obj) and self._cache.put(self._kind, obj)


def _address(kind: Kind, obj: Manifest) -> _Address:
    return _Address(kind.plural, obj["metadata"]["namespace"], obj["metadata"]["name"])


def _version(obj: Manifest) -> int:
    return int(obj["metadata"]["resourceVersion"])


def _slim(obj: Manifest) -> Manifest:
    """Without who owns which field: it is half of an object and nobody here reads it."""
    return obj | {"metadata": {k: v for k, v in obj["metadata"].items() if k != "managedFields"}}
