"""The outbox table in the application's own Alembic history, in either of two ways.

As a branch of its own, beside the application's. In alembic.ini:

    path_separator = newline
    version_locations = %(here)s/versions
        bento_outbox:migrations/versions

From then on `alembic upgrade heads` brings both up to date. Another table than `outbox` is named in env.py:

    config.attributes["bento_outbox"] = {"table": "order_events", "schema": "shop", "row_level_security": True}

Or from a revision of the application's one line:

    def upgrade():
        upgrade_outbox(op)

    def downgrade():
        downgrade_outbox(op)

When a later version of the library needs more of the table, `validate_schema` says so, and another such revision brings
it: every statement may run again.

Autogenerate must leave the table alone, whichever way made it:

    context.configure(..., include_object=ignore_outbox())
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from bento_outbox.ddl import script
from bento_outbox.sql_files import LANE_TABLES, check_names

__all__ = ["downgrade_outbox", "enable_row_level_security", "ignore_outbox", "upgrade_outbox"]


class Operations(Protocol):
    """What is needed of `alembic.op`."""

    def execute(self, sqltext: str, /) -> None:
        """Runs one statement, or prints it in offline mode."""
        ...


def upgrade_outbox(
    op: Operations, *, table: str = "outbox", schema: str | None = None, row_level_security: bool = False
) -> None:
    """Creates the outbox table, or adds what it lacks. op: `alembic.op`."""
    create_outbox_table(op, table=table, schema=schema)
    create_lane_tables(op, table=table, schema=schema)
    add_layout_origin(op, table=table, schema=schema)
    hash_failed_keys(op, table=table, schema=schema)
    if row_level_security:
        enable_row_level_security(op, table=table, schema=schema)


def enable_row_level_security(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Row-level security for tables that exist; from now on roles see nothing until they are bound."""
    for statement in protection(table, schema):
        op.execute(statement)


def protection(table: str, schema: str | None) -> list[str]:
    """The statements of row-level security, for the outbox and for what the projector keeps beside it."""
    made = script("bento_outbox.migrations", "tenant_role_table.sql", table=table, schema=schema)
    for beside in ("", *LANE_TABLES):
        made += script("bento_outbox.migrations", "row_level_security.sql", table=table, schema=schema, beside=beside)
    return made


def downgrade_outbox(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Drops the outbox table, the events in it, and what the projector keeps beside it."""
    drop_lane_tables(op, table=table, schema=schema)
    _execute(op, "no_outbox_table.sql", table, schema)


def create_outbox_table(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Creates the table itself: a part of `upgrade_outbox`."""
    _execute(op, "outbox_table.sql", table, schema)


def create_lane_tables(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Creates what the projector keeps beside the outbox: a part of `upgrade_outbox`."""
    _execute(op, "lane_tables.sql", table, schema)
    _execute(op, "request_table.sql", table, schema)


def add_layout_origin(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Adds what tells the lanes of two databases from each other: a part of `upgrade_outbox`."""
    _execute(op, "layout_origin.sql", table, schema)


def drop_layout_origin(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Drops it: a part of going back."""
    _execute(op, "no_layout_origin.sql", table, schema)


def hash_failed_keys(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Makes the index of failed rows, by the hash of their keys: a part of `upgrade_outbox`."""
    _execute(op, "failed_key.sql", table, schema)


def unhash_failed_keys(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """The index as it was before: a part of going back."""
    _execute(op, "no_failed_key.sql", table, schema)


def drop_lane_tables(op: Operations, *, table: str = "outbox", schema: str | None = None) -> None:
    """Drops it: a part of `downgrade_outbox`."""
    _execute(op, "no_lane_tables.sql", table, schema)


def ignore_outbox(*, table: str = "outbox", schema: str | None = None) -> Callable[..., bool]:
    """An `include_object` for env.py: autogenerate neither makes nor changes nor drops the outbox and its side tables.

    schema: as the tables are seen by Alembic; None for the first of the search path.
    """
    own = {table, *(table + suffix for suffix in (*LANE_TABLES, "_tenant_role", "_alembic_version"))}

    def include(item: Any, name: str | None, kind: str, _reflected: bool, _compare_to: object) -> bool:
        return not (kind == "table" and name in own and item.schema == schema)

    return include


def _execute(op: Operations, file: str, table: str, schema: str | None) -> None:
    check_names(table, schema)
    for statement in script("bento_outbox.migrations", file, table=table, schema=schema):
        op.execute(statement)
