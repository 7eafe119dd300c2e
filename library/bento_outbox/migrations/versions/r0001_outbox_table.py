"""The outbox table, or the columns that a table of the bare contract lacks: `outbox_table.sql`."""

from __future__ import annotations

from alembic import op

from bento_outbox.migrations import create_outbox_table, downgrade_outbox
from bento_outbox.migrations.configured import table_options

revision = "bento_outbox_0001"
down_revision = None
branch_labels = ("bento_outbox",)
depends_on = None


def upgrade() -> None:
    create_outbox_table(op, **table_options())


def downgrade() -> None:
    downgrade_outbox(op, **table_options())
