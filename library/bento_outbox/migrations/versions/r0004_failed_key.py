"""Failed rows are found by the hash of their key, which may be of any length."""

from __future__ import annotations

from alembic import op

from bento_outbox.migrations import hash_failed_keys, unhash_failed_keys
from bento_outbox.migrations.configured import table_options

revision = "bento_outbox_0004"
down_revision = "bento_outbox_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    hash_failed_keys(op, **table_options())


def downgrade() -> None:
    unhash_failed_keys(op, **table_options())
