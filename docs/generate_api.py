"""Writes docs/api.md from the CRD: `python docs/generate_api.py`. A test fails when it is not up to date."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CRD = ROOT / "crds" / "outboxtenants.yaml"
PAGE = ROOT / "docs" / "api.md"

INTRODUCTION = """\
# The API: OutboxTenant

`{group}/{version}`, namespaced, short name `{short}`. Generated from `crds/outboxtenants.yaml` by
`docs/generate_api.py`; `kubectl explain {short}.spec` says the same at the terminal. Unknown fields are refused, and a
field that is left out has the default that stands here. The reasons of the conditions are in [reasons.md](reasons.md).
"""


def page() -> str:
    """The whole page."""
    spec = yaml.safe_load(CRD.read_text())["spec"]
    version = spec["versions"][0]
    properties = version["schema"]["openAPIV3Schema"]["properties"]
    head = INTRODUCTION.format(group=spec["group"], version=version["name"], short=spec["names"]["shortNames"][0])
    parts = [
        head,
        *(f"## {name}\n\n{_table(properties[name], name)}" for name in ("spec", "status")),
        _columns(version),
        _selectors(version, spec["names"]["shortNames"][0]),
    ]
    return "\n".join(parts)


def _table(rules: dict[str, Any], path: str) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{p}` | {_type(r)} | {_default(r, required)} | {_meaning(r)} |" for p, r, required in _fields(rules, path)
    ]
    return "\n".join(lines) + "\n"


def _fields(rules: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    inside = rules.get("items", rules)
    for name, inner in inside.get("properties", {}).items():
        yield f"{path}.{name}", inner, name in inside.get("required", ())
        yield from _fields(inner, f"{path}.{name}" + ("[]" if "items" in inner else ""))


def _type(rules: dict[str, Any]) -> str:
    if rules.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in rules:
        return ", ".join(rules["enum"])
    low, high = rules.get("minimum"), rules.get("maximum")
    if low is not None and high is not None:
        return f"{rules['type']}, {low} to {high}"
    if "maxLength" in rules and "minLength" in rules:
        return f"{rules['type']}, {rules['minLength']} to {rules['maxLength']} characters"
    return "time" if rules.get("format") == "date-time" else str(rules["type"])


def _default(rules: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = rules.get("default")
    return f"`{value}`" if isinstance(value, str | int) else ""


def _meaning(rules: dict[str, Any]) -> str:
    sentences = [rules.get("description", "")]
    sentences += [f"Rule: {rule['message']}." for rule in rules.get("x-kubernetes-validations", ())]
    return " ".join(" ".join(sentences).split()).replace("|", "\\|")


def _columns(version: dict[str, Any]) -> str:
    lines = ["## Columns of `kubectl get outboxtenants`", "", "| column | meaning |", "|---|---|"]
    for column in version["additionalPrinterColumns"]:
        wide = " (with `-o wide`)" if column.get("priority") else ""
        lines.append(f"| {column['name'].upper()}{wide} | {column.get('description', 'Time since it was created.')} |")
    return "\n".join(lines) + "\n"


def _selectors(version: dict[str, Any], short: str) -> str:
    paths = [field["jsonPath"].removeprefix(".") for field in version["selectableFields"]]
    example = f"kubectl get {short} --all-namespaces --field-selector {paths[0]}=acme"
    named = ", ".join(f"`{path}`" for path in paths)
    return f"## Selecting\n\n`{example}` asks the API server. It can select by {named}.\n"


if __name__ == "__main__":
    PAGE.write_text(page())
