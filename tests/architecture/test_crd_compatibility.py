"""The next schema may not break what is stored: the CRD is compared with the one of the last release, of which there is
a copy in `released/`. Objects that it let in stay valid, lose no field and keep their defaults.

At a release the copy is renewed: `cp crds/outboxtenants.yaml tests/architecture/released/`. Before the first one there
are no stored objects, so until then it may be renewed with any change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.crd_compatibility import breaks

ROOT = Path(__file__).parents[2]
NOW = ROOT / "crds" / "outboxtenants.yaml"
RELEASED = Path(__file__).parent / "released" / "outboxtenants.yaml"

Schema = dict[str, Any]
Change = Callable[[Schema], object]


def released() -> Schema:
    # By way of JSON, since anchors make several parts of it one object: what a test changes must change in one place.
    definition: Schema = json.loads(_released_json())
    return definition


@cache
def _released_json() -> str:
    return json.dumps(yaml.safe_load(RELEASED.read_text()))


def test_what_is_stored_stays_valid_and_means_what_it_meant() -> None:
    assert breaks(released(), yaml.safe_load(NOW.read_text())) == []


def version(definition: Schema) -> Schema:
    found: Schema = definition["spec"]["versions"][0]
    return found


def field(definition: Schema, path: str) -> Schema:
    """The rules of a field of the spec: `delivery.lanes`, or `pod.env[]` for the items of a list."""
    found: Schema = version(definition)["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for step in path.split(".") if path else ():
        found = found["properties"][step.removesuffix("[]")]
        found = found["items"] if step.endswith("[]") else found
    return found


def add_rule(rules: Schema, **rule: Any) -> None:
    rules.setdefault("x-kubernetes-validations", []).append(rule)


BREAKS: dict[str, tuple[Change, str]] = {
    "a field is gone": (lambda d: field(d, "delivery")["properties"].pop("lanes"), "spec.delivery.lanes is gone"),
    "a field of items is gone": (
        lambda d: field(d, "pod.env[]")["properties"].pop("value"),
        "spec.pod.env[].value is gone",
    ),
    "a lower maximum": (
        lambda d: field(d, "delivery.lanes").update(maximum=32),
        "delivery.lanes has a narrower maximum",
    ),
    "a higher minimum": (
        lambda d: field(d, "delivery.lanes").update(minimum=2),
        "delivery.lanes has a narrower minimum",
    ),
    "a shorter string": (lambda d: field(d, "tenantId").update(maxLength=63), "tenantId has a narrower maxLength"),
    "a bound where there was none": (
        lambda d: field(d, "pod").update(maxProperties=3),
        "pod has a narrower maxProperties",
    ),
    "fewer items": (lambda d: field(d, "pod.env").update(maxItems=1), "pod.env has a narrower maxItems"),
    "another pattern": (lambda d: field(d, "tenantId").update(pattern="^[a-z]+$"), "tenantId has another pattern"),
    "a pattern where there was none": (
        lambda d: field(d, "pulsar.topic").update(pattern="^p"),
        "topic has another pattern",
    ),
    "a value less": (lambda d: field(d, "state")["enum"].remove("Paused"), "state has a narrower enum"),
    "an enum where there was none": (
        lambda d: field(d, "tenantId").update(enum=["acme"]),
        "tenantId has a narrower enum",
    ),
    "another type": (lambda d: field(d, "delivery.lanes").update(type="string"), "delivery.lanes has another type"),
    "a smaller number": (lambda d: field(d, "tenantId").update(format="date"), "tenantId has another format"),
    "a new required field": (lambda d: field(d, "")["required"].append("image"), "spec.image is required now"),
    "another default": (lambda d: field(d, "delivery.lanes").update(default=4), "delivery.lanes has another default"),
    "a default that is gone": (lambda d: field(d, "state").pop("default"), "spec.state has another default"),
    "a default where there was none": (
        lambda d: field(d, "image").update(default="x"),
        "spec.image has another default",
    ),
    "another default of a map": (
        lambda d: field(d, "polling")["default"].update(minMilliseconds=1),
        "spec.polling has another default",
    ),
    "a new rule": (
        lambda d: add_rule(field(d, "pulsar"), rule="has(self.tls)", message="-"),
        "spec.pulsar has a new rule",
    ),
    "another kind of list": (
        lambda d: field(d, "pod.env").update({"x-kubernetes-list-type": "atomic"}),
        "pod.env has another x-kubernetes-list-type",
    ),
    "other values of a map": (
        lambda d: field(d, "pod.labels").pop("additionalProperties"),
        "other additionalProperties",
    ),
    "a shorter value of a map": (
        lambda d: field(d, "pod.labels")["additionalProperties"].update(maxLength=1),
        "pod.labels{} has a narrower maxLength",
    ),
    "no longer served": (lambda d: version(d).update(served=False), "v1alpha1 is no longer served"),
    "a version that is gone": (lambda d: version(d).update(name="v1"), "v1alpha1 is no longer served"),
    "no scale": (lambda d: version(d)["subresources"].pop("scale"), "v1alpha1 has other subresources"),
    "a selectable field less": (
        lambda d: version(d)["selectableFields"].pop(0),
        ".spec.tenantId can no longer be selected by",
    ),
    "another scope": (lambda d: d["spec"].update(scope="Cluster"), "scope is another"),
    "another plural": (lambda d: d["spec"]["names"].update(plural="tenants"), "names.plural is another"),
    "no short name": (lambda d: d["spec"]["names"].pop("shortNames"), "names.shortNames lacks obt"),
}


@pytest.mark.parametrize(("change", "says"), BREAKS.values(), ids=BREAKS.keys())
def test_every_kind_of_break_is_found(change: Change, says: str) -> None:
    new = released()
    change(new)
    found = breaks(released(), new)
    assert len(found) == 1
    assert says in found[0]


COMPATIBLE: dict[str, Change] = {
    "a new field with a default": lambda d: field(d, "")["properties"].update(speed={"type": "integer", "default": 1}),
    "its part in the default of its map": lambda d: (
        field(d, "polling")["properties"].update(extra={"type": "integer", "default": 1}),
        field(d, "polling")["default"].update(extra=1),
    ),
    "a higher maximum": lambda d: field(d, "delivery.lanes").update(maximum=128),
    "no maximum": lambda d: field(d, "delivery.lanes").pop("maximum"),
    "one more value": lambda d: field(d, "state")["enum"].append("Draining"),
    "no longer required": lambda d: field(d, "")["required"].remove("pulsar"),
    "no pattern": lambda d: field(d, "tenantId").pop("pattern"),
    "a rule less": lambda d: field(d, "polling").pop("x-kubernetes-validations"),
    "a rule that spares what is stored": lambda d: add_rule(
        field(d, "pulsar"),
        rule="oldSelf.hasValue() || has(self.tls)",
        message="-",
        optionalOldSelf=True,
    ),
    "other words": lambda d: field(d, "tenantId").update(description="Another."),
    "one more selectable field": lambda d: version(d)["selectableFields"].append({"jsonPath": ".spec.image"}),
}


@pytest.mark.parametrize("change", COMPATIBLE.values(), ids=COMPATIBLE.keys())
def test_what_is_looser_is_let_pass(change: Change) -> None:
    new = released()
    change(new)
    assert breaks(released(), new) == []
