"""The outbox table, or the columns that a table of the bare contract lacks: `outbox_table.sql`."""

from __future__ import annotations

from typing import Any

from alembic import context, op

from bento_outbox.migrations import create_outbox_table, downgrade_outbox, enable_row_level_security

revision = "bento_outbox_0001"
down_revision = None
branch_labels = ("bento_outbox",)
depends_on = None


def _options() -> dict[str, Any]:
    """Of an application's history, where nothing need be said, or of `bento_outbox.schema`."""
    return dict(context.config.attributes.get("bento_outbox", {}))


def upgrade() -> None:
    options = _options()
    protected = options.pop("row_level_security", False)
    create_outbox_table(op, **options)
    if protected:
        enable_row_level_security(op, **options)


def downgrade() -> None:
    options = _options()
    options.pop("row_level_security", None)
    downgrade_outbox(op, **options)
