"""What env.py says of the table, for the revisions in `versions`."""

from __future__ import annotations

from typing import Any

from alembic import context


def table_options() -> dict[str, Any]:
    """Table and schema. Of an application's history, where nothing need be said, or of `bento_outbox.schema`."""
    return {name: value for name, value in _options().items() if name != "row_level_security"}


def is_protected() -> bool:
    """Whether row-level security is wanted."""
    return bool(_options().get("row_level_security", False))


def _options() -> dict[str, Any]:
    return dict(context.config.attributes.get("bento_outbox", {}))
