"""The chart carries a copy of the CRD and repeats the version of the distribution; neither may drift."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import yaml

from docs import generate_api

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds" / "outboxtenants.yaml"
CHART = ROOT / "charts" / "outbox-operator"


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def schema() -> dict[str, Any]:
    rules: dict[str, Any] = load(CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return rules


def own_fields() -> list[tuple[str, dict[str, Any]]]:
    """Those that we define: of spec and status."""
    found = generate_api.fields(schema(), "")
    return [(path, rules) for path, rules, _ in found if path.startswith((".spec.", ".status."))]


def test_the_chart_carries_the_crd() -> None:
    copy = CHART / "files" / CRD.name
    assert copy.read_text() == CRD.read_text(), f"cp {CRD.relative_to(ROOT)} {copy.relative_to(ROOT)}"


def test_the_chart_has_the_version_of_the_distribution() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = load(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_every_value_of_the_chart_is_described() -> None:
    values = load(CHART / "values.yaml")
    described = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert described.keys() - {"global"} == values.keys()


def test_every_field_is_explained() -> None:
    assert [path for path, rules in own_fields() if "description" not in rules] == []


def test_kubectl_explain_tells_defaults_and_bounds() -> None:
    """In the descriptions, since it prints nothing else of a schema but enums. docs/api.md has columns for them."""
    ends = [(path, rules["description"], generate_api.in_words(rules)) for path, rules in own_fields()]
    assert [(path, end) for path, text, end in ends if path.startswith(".spec.") and not text.endswith(end)] == []


def test_everything_has_a_bound() -> None:
    def unbounded(rules: dict[str, Any]) -> bool:
        match rules.get("type"):
            case "string":
                return not {"maxLength", "enum", "format"} & rules.keys()
            case "integer" | "number":
                return not {"minimum", "maximum"} <= rules.keys()
            case "array":
                return "maxItems" not in rules
            case "object":
                return "additionalProperties" in rules and "maxProperties" not in rules
            case None:
                return not rules.get("x-kubernetes-int-or-string") or "maxLength" not in rules
        return False

    assert [path for path, rules in own_fields() if unbounded(rules)] == []


def test_every_list_says_how_it_is_merged() -> None:
    """Left out, it is atomic: who applies one item replaces all. Where that is meant, it is written down."""
    lists = [(path, rules) for path, rules in own_fields() if rules.get("type") == "array"]
    assert lists
    assert [path for path, rules in lists if "x-kubernetes-list-type" not in rules] == []


def test_a_default_of_a_map_is_what_the_defaults_inside_it_make() -> None:
    """`polling: {}` and no polling at all must mean the same."""
    for path, rules in own_fields():
        inner = {name: field["default"] for name, field in rules.get("properties", {}).items() if "default" in field}
        if rules.get("default") and inner:
            assert rules["default"] == inner, path
