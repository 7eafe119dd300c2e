"""An origin for each tenant's lanes, by which the broker tells the lanes of two databases from each other."""

from __future__ import annotations

from alembic import op

from bento_outbox.migrations import add_layout_origin, drop_layout_origin
from bento_outbox.migrations.configured import table_options

revision = "bento_outbox_0003"
down_revision = "bento_outbox_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    add_layout_origin(op, **table_options())


def downgrade() -> None:
    drop_layout_origin(op, **table_options())
