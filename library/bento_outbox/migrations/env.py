"""Alembic's entry point. `bento_outbox.schema` passes the connection, schema and table name as attributes."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
options = {
    "version_table": f"{attributes['table']}_alembic_version",
    "version_table_schema": attributes["schema"],
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", **options)
else:
    context.configure(connection=attributes["connection"], **options)

with context.begin_transaction():
    context.run_migrations()
