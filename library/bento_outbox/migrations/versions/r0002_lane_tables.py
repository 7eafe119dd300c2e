"""What the projector keeps beside the outbox: `lane_tables.sql`."""

from __future__ import annotations

from typing import Any

from alembic import context, op

from bento_outbox.migrations import create_lane_tables, drop_lane_tables

revision = "bento_outbox_0002"
down_revision = "bento_outbox_0001"
branch_labels = None
depends_on = None


def _options() -> dict[str, Any]:
    """Of an application's history, where nothing need be said, or of `bento_outbox.schema`."""
    options = dict(context.config.attributes.get("bento_outbox", {}))
    options.pop("row_level_security", None)
    return options


def upgrade() -> None:
    create_lane_tables(op, **_options())


def downgrade() -> None:
    drop_lane_tables(op, **_options())
