"""What in a new CustomResourceDefinition breaks objects that an old one has accepted: each as one sentence.

An object that is stored must stay valid, keep every field, and mean what it meant. So nothing that the old one allows
may be refused, dropped or completed in another way. What can't be compared (a pattern with another pattern, a rule with
another rule) counts as narrower. A new CEL rule is let pass when it has `optionalOldSelf`, with which it can leave
alone what was there before; newer API servers do that by themselves, the oldest that the chart allows does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

LOWER_BOUNDS = ("minLength", "minItems", "minProperties", "minimum")
UPPER_BOUNDS = ("maxLength", "maxItems", "maxProperties", "maximum")
FIXED = (
    *("type", "format", "nullable", "multipleOf", "exclusiveMinimum", "exclusiveMaximum", "uniqueItems"),
    *("x-kubernetes-int-or-string", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"),
    *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource", "allOf", "anyOf", "oneOf", "not"),
)
"""What must be as it was: another value, or one where there was none, is another set of objects."""


def breaks(old: Schema, new: Schema) -> list[str]:
    """Everything in the new definition that breaks what the old one has let in; empty when it is compatible."""
    return [*_definition(old["spec"], new["spec"]), *_versions(old["spec"], new["spec"])]


def _definition(old: Schema, new: Schema) -> Iterator[str]:
    for field in ("group", "scope"):
        if new[field] != old[field]:
            yield f"{field} is another"
    for field in ("kind", "listKind", "plural", "singular"):
        if new["names"][field] != old["names"][field]:
            yield f"names.{field} is another"
    for field in ("shortNames", "categories"):
        for name in set(old["names"].get(field, ())) - set(new["names"].get(field, ())):
            yield f"names.{field} lacks {name}"


def _versions(old: Schema, new: Schema) -> Iterator[str]:
    versions = {version["name"]: version for version in new["versions"]}
    for before in old["versions"]:
        name = before["name"]
        after = versions.get(name)
        if after is None or (before["served"] and not after["served"]):
            yield f"version {name} is no longer served"
            continue
        if before.get("subresources", {}) != after.get("subresources", {}):
            yield f"version {name} has other subresources"
        selectable = {field["jsonPath"] for field in after.get("selectableFields", ())}
        for field in before.get("selectableFields", ()):
            if field["jsonPath"] not in selectable:
                yield f"{field['jsonPath']} can no longer be selected by"
        yield from _schema(before["schema"]["openAPIV3Schema"], after["schema"]["openAPIV3Schema"], name)


def _schema(old: Schema, new: Schema, path: str) -> Iterator[str]:
    yield from _values(old, new, path)
    yield from _rules(old, new, path)
    if _default(old, old) != _default(new, old):
        yield f"{path} has another default"
    for name in set(new.get("required", ())) - set(old.get("required", ())):
        yield f"{path}.{name} is required now"
    for name, inner in old.get("properties", {}).items():
        if name in new.get("properties", {}):
            yield from _schema(inner, new["properties"][name], f"{path}.{name}")
        else:
            yield f"{path}.{name} is gone"
    for field, step in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(old.get(field), dict) and isinstance(new.get(field), dict):
            yield from _schema(old[field], new[field], path + step)
        elif old.get(field) != new.get(field):
            yield f"{path} has other {field}"


def _values(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for field in FIXED:
        if old.get(field) != new.get(field):
            yield f"{path} has another {field}"
    for field in LOWER_BOUNDS:
        if field in new and (field not in old or new[field] > old[field]):
            yield f"{path} has a narrower {field}"
    for field in UPPER_BOUNDS:
        if field in new and (field not in old or new[field] < old[field]):
            yield f"{path} has a narrower {field}"
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        yield f"{path} has another pattern"
    if "enum" in new and ("enum" not in old or not set(old["enum"]) <= set(new["enum"])):
        yield f"{path} has a narrower enum"


def _rules(old: Schema, new: Schema, path: str) -> Iterator[str]:
    known = [rule["rule"] for rule in old.get("x-kubernetes-validations", ())]
    for rule in new.get("x-kubernetes-validations", ()):
        if rule["rule"] not in known and not rule.get("optionalOldSelf"):
            yield f"{path} has a new rule that does not spare what is stored: {rule['rule']}"


def _default(rules: Schema, known: Schema) -> Any:
    """The default, without the part of it that is for fields which the old schema does not know."""
    default = rules.get("default")
    if isinstance(default, dict) and "properties" in known:
        return {name: value for name, value in default.items() if name in known["properties"]}
    return default
