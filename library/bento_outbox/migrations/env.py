"""Alembic's entry point for `bento_outbox.schema`, which passes the connection and the names as attributes.

The version table lies beside the outbox and is called after it, so that this history never meets the application's.
"""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
names = attributes["bento_outbox"]
options = {
    "version_table": f"{names['table']}_alembic_version",
    "version_table_schema": names["schema"],
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", **options)
else:
    context.configure(connection=attributes["connection"], **options)

with context.begin_transaction():
    context.run_migrations()
