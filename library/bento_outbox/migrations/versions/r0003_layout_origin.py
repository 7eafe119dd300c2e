"""An origin for each tenant's lanes, by which the broker tells the lanes of two databases from each other."""

from __future__ import annotations

from typing import Any

from alembic import context, op

from bento_outbox.migrations import add_layout_origin, drop_layout_origin

revision = "bento_outbox_0003"
down_revision = "bento_outbox_0002"
branch_labels = None
depends_on = None


def _options() -> dict[str, Any]:
    """Of an application's history, where nothing need be said, or of `bento_outbox.schema`."""
    options = dict(context.config.attributes.get("bento_outbox", {}))
    options.pop("row_level_security", None)
    return options


def upgrade() -> None:
    add_layout_origin(op, **_options())


def downgrade() -> None:
    drop_layout_origin(op, **_options())
