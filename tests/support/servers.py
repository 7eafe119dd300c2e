"""Where the real servers are. A test that needs one fails without it: a skipped test proves nothing."""

from __future__ import annotations

import os

import pytest

COMMAND = (
    ".venv/bin/python -m sandbox exec --parts postgres,pulsar -- .venv/bin/pytest tests/contract tests/integration"
)


def address_of(variable: str) -> str:
    """The value of DATABASE_URL, PULSAR_URL or PULSAR_ADMIN_URL."""
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set, but this test needs the real server: run `{COMMAND}`", pytrace=False)
    return value
