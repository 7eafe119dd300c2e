"""What the projector keeps beside the outbox: `lane_tables.sql`, `request_table.sql`. Row-level security of it all."""

from __future__ import annotations

from typing import Any

from alembic import context, op

from bento_outbox.migrations import create_lane_tables, drop_lane_tables, enable_row_level_security

revision = "bento_outbox_0002"
down_revision = "bento_outbox_0001"
branch_labels = None
depends_on = None


def _options() -> dict[str, Any]:
    """Of an application's history, where nothing need be said, or of `bento_outbox.schema`."""
    return dict(context.config.attributes.get("bento_outbox", {}))


def upgrade() -> None:
    options = _options()
    protected = options.pop("row_level_security", False)
    create_lane_tables(op, **options)
    if protected:
        enable_row_level_security(op, **options)


def downgrade() -> None:
    options = _options()
    options.pop("row_level_security", None)
    drop_lane_tables(op, **options)
