"""What people read about the API is what the API server enforces and the operator says."""

from __future__ import annotations

from pathlib import Path

from docs import generate_api
from outbox_operator.reasons import EXPECTED, Reason

REASONS = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_api_page_is_up_to_date() -> None:
    assert generate_api.PAGE.read_text() == generate_api.page(), "run: python docs/generate_api.py"


def rows() -> list[list[str]]:
    """The cells of the operator's table: condition, reason, meaning, what to do."""
    ours = REASONS.read_text().partition("## Told by the operator")[2]
    lines = [line for line in ours.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_reason_of_the_operator_is_explained_and_no_other() -> None:
    passed_on = {"DeduplicationDisabled"}
    assert {reason for _, reason, _, _ in rows()} == {reason.value for reason in Reason} | passed_on


def test_where_something_is_wrong_there_is_something_to_do() -> None:
    harmless = {*EXPECTED, Reason.STABLE, Reason.AS_EXPECTED, Reason.ROLLING_OUT}
    assert [reason for _, reason, _, cure in rows() if not cure and reason not in harmless] == []
