"""What people read about the API is what the API server enforces and the operator says."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from bento_outbox.pulsar_answers import OUTAGES
from docs import generate_api
from outbox_operator.reasons import EXPECTED, Reason
from outbox_projector import database_errors

ROOT = Path(__file__).parents[2]
REASONS = ROOT / "docs" / "reasons.md"


def test_the_api_page_is_up_to_date() -> None:
    assert generate_api.PAGE.read_text() == generate_api.page(), "run: python docs/generate_api.py"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 64, "default": 0}, "Default 0; 0 to 64."),
        ({"type": "integer", "minimum": 0, "maximum": 2**53 - 1}, ""),
        ({"type": "boolean", "default": False}, "Default false."),
        ({"type": "string", "minLength": 1, "maxLength": 63}, "1 to 63 characters."),
        ({"type": "string", "maxLength": 63, "default": "a: b"}, "Default 'a: b'; at most 63 characters."),
        ({"type": "array", "maxItems": 8, "default": [{"a": 1}]}, "Default [{a: 1}]; at most 8 items."),
        ({"type": "object", "maxProperties": 8}, "At most 8 entries."),
        ({"type": "object", "properties": {"a": {}}, "default": {"a": "1m"}}, "Default {a: 1m}."),
        ({"type": "object", "properties": {"a": {"default": 1}}, "default": {"a": 1}}, ""),
        ({"x-kubernetes-int-or-string": True, "maxLength": 32}, ""),
    ],
)
def test_defaults_and_bounds_in_words(rules: dict[str, Any], words: str) -> None:
    assert generate_api.in_words(rules) == words


def rows(teller: str) -> list[list[str]]:
    """The cells of its table: condition, reason, meaning, what to do."""
    table = REASONS.read_text().partition(f"## Told by the {teller}\n")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_reason_of_the_operator_is_explained_and_no_other() -> None:
    passed_on = {"DeduplicationDisabled"}
    assert {reason for _, reason, _, _ in rows("operator")} == {reason.value for reason in Reason} | passed_on


def test_every_reason_of_the_projector_is_explained_and_no_other() -> None:
    """Those in the source: of errors (`reason=`), of conditions (`become`), and what answers are translated to."""
    told = {reason for _, reason, _ in database_errors._REASONS} | set(OUTAGES.values())
    for package in ("projector/outbox_projector", "library/bento_outbox"):
        for module in (ROOT / package).glob("*.py"):
            for call in ast.walk(ast.parse(module.read_text())):
                if isinstance(call, ast.Call):
                    told |= _texts(keyword.value for keyword in call.keywords if keyword.arg == "reason")
                    if isinstance(call.func, ast.Attribute) and call.func.attr.endswith("become"):
                        told |= _texts(call.args[1:-1])
    assert {reason for _, reason, _, _ in rows("projector")} == told


def _texts(arguments: Iterable[ast.expr]) -> set[str]:
    """Those that could be a reason, among constants."""
    return {str(a.value) for a in arguments if isinstance(a, ast.Constant) and str(a.value).isidentifier()}


def test_where_something_is_wrong_there_is_something_to_do() -> None:
    harmless = {*EXPECTED, Reason.STABLE, Reason.AS_EXPECTED, Reason.ROLLING_OUT}
    assert [reason for _, reason, _, cure in rows("operator") if not cure and reason not in harmless] == []
