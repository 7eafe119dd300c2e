"""The chart's README tells of every value, with the default that it has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from docs import generate_values


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield from leaves(value, f"{path}{name}.") if isinstance(value, dict) and value else (f"{path}{name}",)


def test_the_table_is_up_to_date() -> None:
    assert generate_values.PAGE.read_text() == generate_values.page(), "run: python docs/generate_values.py"


def test_every_value_is_explained() -> None:
    text = generate_values.VALUES.read_text()
    explained = [path for path, _, _ in generate_values.rows_of(text)]
    assert [
        leaf for leaf in leaves(yaml.safe_load(text)) if not any(f"{leaf}.".startswith(f"{e}.") for e in explained)
    ] == []


def test_an_explanation_may_have_several_lines_and_belongs_to_what_follows_it() -> None:
    text = "# of the file\n\n# -- One\n# and more.\na: 1\nb:\n  # -- Inside.\n  c: {d: e}\n# no value\nf: g\n"
    assert list(generate_values.rows_of(text)) == [("a", 1, "One and more."), ("b.c", {"d": "e"}, "Inside.")]
