"""Test doubles: a cluster in memory and a clock that is moved by hand.

The cluster is honest where the operator depends on the API server: server-side apply with field owners, conflicts and
the removal of fields that are no longer applied; resource versions that change only with the object; generations that
change only with the spec; a status that has its own subresource; watch events for everything that happens. It refuses
both of two fields that exclude each other, validates nothing else, runs no controllers and knows no defaults.
"""

from __future__ import annotations

import copy
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from outbox_operator.drift import LIST_KEYS
from outbox_operator.errors import ClusterError, Conflict, Invalid, NotFound
from outbox_operator.keys import FIELD_MANAGER, OUTBOX_TENANT, Kind, Manifest

Path = tuple[Any, ...]
Fields = dict[Path, Any]
Listener = Callable[[str, Kind, Manifest], None]

_LIST_KEYS = {**LIST_KEYS, "conditions": "type"}
_NOT_APPLIED = ("apiVersion", "kind")

EXCLUSIVE: Final = (("minAvailable", "maxUnavailable"), ("value", "valueFrom"), ("httpGet", "tcpSocket"))
"""Fields side by side of which there may be one only."""


class ManualClock:
    """A clock for the work queue; time passes only by `advance`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._calls: list[tuple[float, int, _Call]] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], object], /) -> _Call:
        call = _Call(callback)
        heapq.heappush(self._calls, (when, next(self._order), call))
        return call

    def advance(self, seconds: float) -> None:
        """Lets time pass and makes the calls that are due, in their order."""
        end = self._now + seconds
        while self._calls and self._calls[0][0] <= end:
            when, _, call = heapq.heappop(self._calls)
            self._now = max(self._now, when)
            if not call.cancelled:
                call.callback()
        self._now = end

    @property
    def pending(self) -> int:
        """How many calls are still to be made."""
        return sum(not call.cancelled for _, _, call in self._calls)


@dataclass(slots=True)
class _Call:
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class _Address(NamedTuple):
    kind: Kind
    namespace: str
    name: str


@dataclass(slots=True)
class _Stored:
    fields: Fields
    owners: dict[tuple[str, str], set[Path]] = field(default_factory=dict)
    """By manager and subresource, as managedFields does."""


class InMemoryCluster:
    """Implements `outbox_operator.cluster.Cluster`; what a test does as somebody else goes by the other methods."""

    def __init__(self) -> None:
        self._stored: dict[_Address, _Stored] = {}
        self._versions = itertools.count(1)
        self.listeners: list[Listener] = []
        self.requests: list[tuple[str, str]] = []
        """(verb, "Kind name") of every request that the operator made."""
        self.refusals: dict[Kind, ClusterError] = {}
        """Raised for every apply of that kind (of a status: for OUTBOX_TENANT)."""

    # --- what the operator uses

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        self.requests.append(("get", f"{kind.kind} {name}"))
        return self.read(kind, namespace, name)

    async def list(self, kind: Kind, namespace: str | None) -> AsyncIterator[Manifest]:
        self.requests.append(("list", kind.kind))
        for address in list(self._stored):
            if address.kind == kind and namespace in (None, address.namespace):
                # The API server names the kind once for the whole list.
                yield {name: value for name, value in self.read(*address).items() if name not in _NOT_APPLIED}

    async def apply(self, kind: Kind, manifest: Manifest, *, force: bool, manager: str = FIELD_MANAGER) -> Manifest:
        self.requests.append(("apply", f"{kind.kind} {manifest['metadata']['name']}"))
        self._refuse(kind)
        wanted = _without_status(manifest)
        expected = wanted.pop(("metadata", "resourceVersion"), None)
        stored = self._stored.get(_Address(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"]))
        if expected is not None and (stored is None or stored.fields["metadata", "resourceVersion"] != expected):
            raise Conflict(f"{kind.kind} {manifest['metadata']['name']}: the object has been modified")
        return self._apply(kind, manifest, wanted, (manager, ""), force=force)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        self.requests.append(("replace", f"{kind.kind} {manifest['metadata']['name']}"))
        self._refuse(kind)
        wanted = _without_status(manifest)
        return self._apply(kind, manifest, wanted, (FIELD_MANAGER, ""), force=True, whole_spec=True)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        self.requests.append(("apply_status", f"{OUTBOX_TENANT.kind} {manifest['metadata']['name']}"))
        self._refuse(OUTBOX_TENANT)
        return self.report(manifest, manager=FIELD_MANAGER)

    # --- what a test does in the name of others

    def create(self, kind: Kind, manifest: Manifest, *, manager: str = "kubectl", replace: bool = False) -> Manifest:
        """Somebody creates or edits an object; with `replace` what is not in the spec goes from it, whoever set it.

        The status is left alone.
        """
        wanted = _without_status(manifest)
        return self._apply(kind, manifest, wanted, (manager, ""), force=True, prune=False, whole_spec=replace)

    def report(self, manifest: Manifest, *, manager: str, kind: Kind = OUTBOX_TENANT) -> Manifest:
        """Somebody applies a status."""
        metadata = manifest["metadata"]
        if _Address(kind, metadata["namespace"], metadata["name"]) not in self._stored:
            raise NotFound(f"{kind.kind} {metadata['name']} not found")
        wanted = {p: v for p, v in flatten(manifest).items() if p[0] == "status"}
        return self._apply(kind, manifest, wanted, (manager, "status"), force=True)

    def delete(self, kind: Kind, namespace: str, name: str) -> None:
        """Somebody deletes an object; its children are not collected."""
        obj = self.read(kind, namespace, name)
        del self._stored[_Address(kind, namespace, name)]
        obj["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell("DELETED", kind, obj)

    def read(self, kind: Kind, namespace: str, name: str) -> Manifest:
        """The object as the API server would return it."""
        stored = self._stored.get(_Address(kind, namespace, name))
        if stored is None:
            raise NotFound(f'{kind.plural} "{name}" not found')
        return {"apiVersion": kind.api_version, "kind": kind.kind, **unflatten(stored.fields)}

    def managers(self, kind: Kind, namespace: str, name: str) -> set[str]:
        """Who owns fields of an object: its managedFields have an entry for each."""
        stored = self._stored[_Address(kind, namespace, name)]
        return {manager for (manager, _), paths in stored.owners.items() if paths}

    @property
    def writes(self) -> Sequence[str]:
        """What the operator applied or replaced so far."""
        return [what for verb, what in self.requests if verb in ("apply", "apply_status", "replace")]

    # --- server-side apply

    def _refuse(self, kind: Kind) -> None:
        if error := self.refusals.get(kind):
            raise error

    def _apply(
        self,
        kind: Kind,
        manifest: Manifest,
        wanted: Fields,
        owner: tuple[str, str],
        *,
        force: bool,
        prune: bool = True,
        whole_spec: bool = False,
    ) -> Manifest:
        address = _Address(kind, manifest["metadata"]["namespace"], manifest["metadata"]["name"])
        known = self._stored.get(address)
        stored = copy.deepcopy(known) or self._new()
        before = copy.deepcopy(stored.fields)
        if whole_spec:
            self._remove(stored, {path for path in stored.fields if path[0] == "spec"} - wanted.keys())
        self._resolve_conflicts(stored, wanted, owner, force=force)
        mine = stored.owners.setdefault(owner, set())
        if prune:
            others = set().union(*(paths for name, paths in stored.owners.items() if name != owner))
            for path in mine - wanted.keys() - others:
                stored.fields.pop(path, None)
            mine.clear()
        mine.update(wanted)
        stored.fields.update(wanted)
        _refuse_both(stored.fields)
        self._stored[address] = stored
        if known is None or stored.fields != before:
            self._touch(stored, before)
            self._tell("ADDED" if known is None else "MODIFIED", kind, self.read(*address))
        return self.read(*address)

    @staticmethod
    def _remove(stored: _Stored, gone: set[Path]) -> None:
        for path in gone:
            del stored.fields[path]
        for paths in stored.owners.values():
            paths -= gone

    @staticmethod
    def _resolve_conflicts(stored: _Stored, wanted: Fields, owner: tuple[str, str], *, force: bool) -> None:
        for other, paths in stored.owners.items():
            clashes = [p for p in paths & wanted.keys() if stored.fields.get(p) != wanted[p]] if other != owner else []
            if clashes and not force:
                names = ", ".join(".".join(map(str, path)) for path in sorted(clashes, key=str))
                raise Conflict(f'Apply failed with conflicts with "{other[0]}": {names}')
            paths.difference_update(clashes)

    def _new(self) -> _Stored:
        number = next(self._versions)
        created = datetime.fromtimestamp(number, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return _Stored({("metadata", "uid"): f"uid-{number}", ("metadata", "creationTimestamp"): created})

    def _touch(self, stored: _Stored, before: Fields) -> None:
        stored.fields["metadata", "resourceVersion"] = str(next(self._versions))
        spec = {path: value for path, value in stored.fields.items() if path[0] not in ("metadata", "status")}
        if spec != {path: value for path, value in before.items() if path[0] not in ("metadata", "status")}:
            stored.fields["metadata", "generation"] = stored.fields.get(("metadata", "generation"), 0) + 1

    def _tell(self, event: str, kind: Kind, obj: Manifest) -> None:
        for listener in self.listeners:
            listener(event, kind, copy.deepcopy(obj))


def _without_status(manifest: Manifest) -> Fields:
    return {p: v for p, v in flatten(manifest).items() if p[0] not in (*_NOT_APPLIED, "status")}


def _refuse_both(fields: Fields) -> None:
    there = {path[:length] for path in fields for length in range(1, len(path) + 1)}
    for one, other in EXCLUSIVE:
        if any(path[-1] == one and (*path[:-1], other) in there for path in there):
            raise Invalid(f"Invalid value: {one} and {other} cannot be both set")


def flatten(value: Any, path: Path = ()) -> Fields:
    """An object as the set of its fields, each under its path; atomic lists and empty maps are fields by themselves."""
    if isinstance(value, dict) and value:
        return {p: v for name, inner in value.items() for p, v in flatten(inner, (*path, name)).items()}
    key = _LIST_KEYS.get(path[-1]) if path and isinstance(value, list) and value else None
    if key is not None and all(isinstance(element, dict) for element in value):
        return {p: v for e in value for p, v in flatten(e, (*path, (key, e[key]))).items()}
    return {path: copy.deepcopy(value)}


def unflatten(fields: Fields) -> Manifest:
    """The reverse of `flatten`."""
    root: Manifest = {}
    for path, value in fields.items():
        here: Any = root
        for step, following in itertools.pairwise(path):
            here = _descend(here, step, [] if isinstance(following, tuple) else {})
        _descend(here, path[-1], copy.deepcopy(value))
    return root


def _descend(here: Any, step: Any, missing: Any) -> Any:
    if isinstance(here, dict):
        return here.setdefault(step, missing)
    key, name = step
    for element in here:
        if element.get(key) == name:
            return element
    here.append({key: name})
    return here[-1]
