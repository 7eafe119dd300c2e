"""Alembic revisions of the outbox table."""
