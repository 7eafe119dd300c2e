"""What people read about the API is what the API server enforces and the operator says."""

from __future__ import annotations

from pathlib import Path

from docs import generate_api
from outbox_operator.conditions import Reason

REASONS = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_api_page_is_up_to_date() -> None:
    assert generate_api.PAGE.read_text() == generate_api.page(), "run: python docs/generate_api.py"


def test_every_reason_of_the_operator_is_explained() -> None:
    text = REASONS.read_text()
    assert [reason.value for reason in Reason if f"| {reason.value} |" not in text] == []
