"""Whether a child is as its manifest wants it; if not, the first difference as one sentence.

A child differs when it was made from another manifest (its hash says so: this also finds fields that the manifest no
longer has) or when a field that the manifest has does not have that value in the live object (somebody edited it).
Fields that the manifest does not have belong to others: defaults of the API server, a restart annotation, what a
webhook adds.

Lists follow the merge rules of server-side apply: some are maps in disguise, where others may add elements; all other
lists must match element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from outbox_operator.cluster import is_same_quantity
from outbox_operator.keys import HASH_ANNOTATION, Manifest

LIST_KEYS: Final[Mapping[str, str]] = {
    "containers": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "topologySpreadConstraints": "topologyKey",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
"""Lists in our manifests that Kubernetes declares as maps, and the field that serves as key."""

QUANTITIES: Final = (".resources.requests", ".resources.limits")
"""Maps of quantities: the API server stores them in another spelling than they were sent in."""

FALSE_BY_DEFAULT: Final = {"paused"}
"""What we set to false only so that nobody sets it to true."""


def difference(manifest: Manifest, live: Manifest | None) -> str | None:
    """Why `manifest` has to be applied over `live`, or None when there is no reason to."""
    if live is None:
        return "it does not exist"
    live_hash = live["metadata"].get("annotations", {}).get(HASH_ANNOTATION)
    if live_hash != manifest["metadata"]["annotations"][HASH_ANNOTATION]:
        return "it was made from another manifest"
    # Not part of what can differ, and missing in the items of a list.
    content = {field: value for field, value in manifest.items() if field not in ("apiVersion", "kind")}
    return _difference(content, live, path="")


def _difference(wanted: Any, actual: Any, *, path: str) -> str | None:
    if isinstance(wanted, dict) and isinstance(actual, dict):
        return _map_difference(wanted, actual, path=path)
    if isinstance(wanted, list) and isinstance(actual, list):
        return _list_difference(wanted, actual, path=path)
    return None if wanted == actual else f"{path} was changed"


def _map_difference(wanted: Manifest, actual: Manifest, *, path: str) -> str | None:
    for field, value in wanted.items():
        inner = f"{path}.{field}" if path else field
        if field not in actual:
            # The API server drops what is empty, and of what is false the default. (All else that is false it keeps.)
            if value in ({}, [], "") or (value is False and field in FALSE_BY_DEFAULT):
                continue
            return f"{inner} was removed"
        if path.endswith(QUANTITIES) and is_same_quantity(value, actual[field]):
            continue
        if found := _difference(value, actual[field], path=inner):
            return found
    return None


def _list_difference(wanted: list[Any], actual: list[Any], *, path: str) -> str | None:
    key = LIST_KEYS.get(path.rpartition(".")[2])
    if key is None:
        if len(wanted) != len(actual):
            return f"{path} was changed"
        pairs = enumerate(zip(wanted, actual, strict=True))
        return next((found for i, (w, a) in pairs if (found := _difference(w, a, path=f"{path}[{i}]"))), None)
    by_key = {element.get(key): element for element in actual}
    for element in wanted:
        inner = f"{path}[{element[key]}]"
        if element[key] not in by_key:
            return f"{inner} was removed"
        if found := _difference(element, by_key[element[key]], path=inner):
            return found
    return None
