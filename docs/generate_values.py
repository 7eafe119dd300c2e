"""Writes the table of values into the chart's README.md: `python docs/generate_values.py`. A test fails when it is old.

What is said of a value are the lines above it in values.yaml that begin with `# --`; one without them holds others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "charts" / "outbox-operator"
VALUES = CHART / "values.yaml"
PAGE = CHART / "README.md"
BEGIN, END = "<!-- values: docs/generate_values.py -->\n", "<!-- end of values -->\n"


def page() -> str:
    """The README with the table as it should be."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    rows = [f"| `{path}` | {_shown(default)} | {meaning} |\n" for path, default, meaning in rows_of(VALUES.read_text())]
    return head + BEGIN + "| value | default | meaning |\n|---|---|---|\n" + "".join(rows) + END + tail


def rows_of(text: str) -> Iterator[tuple[str, Any, str]]:
    """Path, default and meaning of every value that is explained, in their order."""
    path: list[str] = []
    meaning: list[str] = []
    values = yaml.safe_load(text)
    for line in text.splitlines():
        words = line.strip()
        if words.startswith("# -- "):
            meaning = [words.removeprefix("# -- ")]
        elif words.startswith("# ") and meaning:
            meaning.append(words.removeprefix("# "))
        elif ":" in words and not words.startswith("#"):
            level = (len(line) - len(line.lstrip())) // 2
            path = [*path[:level], words.partition(":")[0]]
            if meaning:
                yield ".".join(path), _at(values, path), " ".join(meaning)
            meaning = []


def _at(values: Any, path: list[str]) -> Any:
    for step in path:
        values = values[step]
    return values


def _shown(default: Any) -> str:
    return f"`{json.dumps(default)}`"


if __name__ == "__main__":
    PAGE.write_text(page())
