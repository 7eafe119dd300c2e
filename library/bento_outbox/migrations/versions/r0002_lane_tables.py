"""What the projector keeps beside the outbox: `lane_tables.sql`, `request_table.sql`. Row-level security of it all."""

from __future__ import annotations

from alembic import op

from bento_outbox.migrations import create_lane_tables, drop_lane_tables, enable_row_level_security
from bento_outbox.migrations.configured import is_protected, table_options

revision = "bento_outbox_0002"
down_revision = "bento_outbox_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_lane_tables(op, **table_options())
    if is_protected():
        enable_row_level_security(op, **table_options())


def downgrade() -> None:
    drop_lane_tables(op, **table_options())
