"""Writes docs/api.md from the CRD: `python docs/generate_api.py`. A test fails when it is not up to date."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CRD = ROOT / "crds" / "outboxtenants.yaml"
PAGE = ROOT / "docs" / "api.md"

INTRODUCTION = """\
# The API: OutboxTenant

`{group}/{version}`, namespaced, short name `{short}`, category `{category}`. Generated from
`crds/outboxtenants.yaml` by `docs/generate_api.py`; `kubectl explain {short}.spec` says the same at the terminal, but
for the sentences that begin with Rule. A field that is left out has the default that stands here. One that does not
stand here is refused where the client asks for strict validation, as kubectl does by itself; from any other client the
API server takes the rest and only warns. The reasons of the conditions are in [reasons.md](reasons.md).

{meaning}
"""

UNITS = {"imum": "", "Length": " characters", "Items": " items", "Properties": " entries"}
"""What is counted by `minimum`, `maxLength` and so on."""

NO_BOUND = 2**31 - 1
"""From here on a maximum is that of the type of number, which nobody chooses and nobody meets."""


def page() -> str:
    """The whole page."""
    spec = yaml.safe_load(CRD.read_text())["spec"]
    version, names = spec["versions"][0], spec["names"]
    schema = version["schema"]["openAPIV3Schema"]
    short, category = names["shortNames"][0], names["categories"][0]
    meaning = textwrap.fill(_meaning(schema), 120)
    head = INTRODUCTION.format(
        group=spec["group"], version=version["name"], short=short, category=category, meaning=meaning
    )
    parts = [
        head,
        *(f"## {name}\n\n{_table(schema['properties'][name], name)}" for name in ("spec", "status")),
        _columns(version),
        _selectors(version, short),
    ]
    return "\n".join(parts)


def in_words(rules: dict[str, Any]) -> str:
    """What a description ends with, since `kubectl explain` prints only that: `Default 1000; 1 to 5000.`, or none."""
    default = _default(rules)
    said = "; ".join(filter(None, (f"Default {default}" if default else "", _bounds(rules))))
    return f"{said[0].upper()}{said[1:]}." if said else ""


def fields(rules: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Everything inside, depth first: path, rules, and whether it is required. Items are `[]`, values of a map `{}`."""
    for name, inner in rules.get("properties", {}).items():
        yield f"{path}.{name}", inner, name in rules.get("required", ())
        yield from fields(inner, f"{path}.{name}")
    for step, kind in (("[]", "items"), ("{}", "additionalProperties")):
        if kind in rules:
            yield path + step, rules[kind], False
            yield from fields(rules[kind], path + step)


def _table(rules: dict[str, Any], path: str) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for place, inner, required in fields(rules, path):
        default = _default(inner)
        value = "required" if required else f"`{default}`" if default else ""
        lines.append(f"| `{place}` | {_type(inner)} | {value} | {_meaning(inner)} |")
    return "\n".join(lines) + "\n"


def _type(rules: dict[str, Any]) -> str:
    if rules.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in rules:
        return ", ".join(rules["enum"])
    if rules.get("format") == "date-time":
        return "time"
    return ", ".join(filter(None, (rules["type"], _bounds(rules))))


def _bounds(rules: dict[str, Any]) -> str:
    """`1 to 64`, or `at most 63 characters`."""
    for kind, unit in UNITS.items():
        low, high = rules.get(f"min{kind}"), rules.get(f"max{kind}", NO_BOUND)
        if high < NO_BOUND and not rules.get("x-kubernetes-int-or-string"):
            return f"at most {high}{unit}" if low is None else f"{low} to {high}{unit}"
    return ""


def _default(rules: dict[str, Any]) -> str:
    """In one line of YAML. A map whose fields have defaults of their own needs none: `{}` means the same."""
    default = rules.get("default")
    if default is None or any("default" in inner for inner in rules.get("properties", {}).values()):
        return ""
    return yaml.safe_dump(default, default_flow_style=True, sort_keys=False, width=1000).splitlines()[0]


def _meaning(rules: dict[str, Any]) -> str:
    """Without what the other columns say."""
    sentences = [rules.get("description", "").removesuffix(in_words(rules))]
    sentences += [f"Rule: {rule['message']}." for rule in rules.get("x-kubernetes-validations", ())]
    return " ".join(" ".join(sentences).split()).replace("|", "\\|")


def _columns(version: dict[str, Any]) -> str:
    lines = ["## Columns of `kubectl get outboxtenants`", "", "| column | meaning |", "|---|---|"]
    for column in version["additionalPrinterColumns"]:
        wide = " (with `-o wide`)" if column.get("priority") else ""
        lines.append(f"| {column['name'].upper()}{wide} | {column['description']} |")
    return "\n".join(lines) + "\n"


def _selectors(version: dict[str, Any], short: str) -> str:
    paths = [field["jsonPath"].removeprefix(".") for field in version["selectableFields"]]
    example = f"kubectl get {short} --all-namespaces --field-selector {paths[0]}=acme"
    named = ", ".join(f"`{path}`" for path in paths)
    return f"## Selecting\n\n`{example}` asks the API server. It can select by {named}.\n"


if __name__ == "__main__":
    PAGE.write_text(page())
