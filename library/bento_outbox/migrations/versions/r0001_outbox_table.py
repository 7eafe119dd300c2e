"""The outbox table, or the columns that a table of the bare contract lacks: `outbox_table.sql`."""

from __future__ import annotations

from typing import Any

from alembic import context, op

from bento_outbox.migrations import create_outbox_table, downgrade_outbox

revision = "bento_outbox_0001"
down_revision = None
branch_labels = ("bento_outbox",)
depends_on = None


def _options() -> dict[str, Any]:
    """Of an application's history, where nothing need be said, or of `bento_outbox.schema`."""
    options = dict(context.config.attributes.get("bento_outbox", {}))
    options.pop("row_level_security", None)
    return options


def upgrade() -> None:
    create_outbox_table(op, **_options())


def downgrade() -> None:
    downgrade_outbox(op, **_options())
