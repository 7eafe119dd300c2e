"""The outbox table: the only API between the write side and the projector.

Any writer may insert with the eight columns from `tenant_id` to `created_at` alone, plain SQL included: the others
have defaults. The migrations in `bento_outbox.migrations` create it; this module lets SQLAlchemy see it.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import (
    ARRAY,
    DDL,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    event,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.orm import registry

from bento_outbox.sql_files import check_names

NEW, SENT, ERR = "NEW", "SENT", "ERR"
AUTOVACUUM = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 1000,
    "autovacuum_vacuum_cost_delay": 0,
}
"""Of a table that nobody has set up in another way; why is said in `outbox_table.sql`."""

# The parameter style matters: with the default one a % in a name would be doubled.
_identifiers = PGDialect(paramstyle="named").identifier_preparer  # type: ignore[no-untyped-call] # SQLAlchemy gives it no types


def quoted(table: Table, *, bare: bool = False) -> str:
    """The table's name for the text of a statement: with its schema, quoted where it must be, no part a parameter.

    bare: for a value or another reader than `sqlalchemy.text`.
    """
    name: str = _identifiers.format_table(table)
    return name if bare else name.replace(":", r"\:")


def make_outbox_table(metadata: MetaData, *, name: str = "outbox", schema: str | None = None) -> Table:
    """The outbox table as part of `metadata`, with what the projector keeps beside it.

    The first index serves the projector's claim (the oldest NEW rows of a tenant) and its counts of NEW and ERR rows,
    the second the retention of SENT rows; the third finds the rows that wait for another attempt, and holds no others.
    Raises MisuseError when the tables could not be called so.
    """
    check_names(name, schema)
    now = func.now()
    table = Table(
        name,
        metadata,
        Column("id", Uuid, primary_key=True, server_default=func.gen_random_uuid()),
        Column("tenant_id", Text, nullable=False),
        Column("aggregate_id", Text, nullable=False),
        Column("type", Text, nullable=False),
        Column("schema_id", Text),
        Column("schema_ver", Integer),
        Column("payload", JSONB, nullable=False),
        Column("status", Text, nullable=False, server_default=text("'NEW'")),
        Column("retry_cnt", Integer, nullable=False, server_default=text("0")),
        Column("created_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("seq", BigInteger, Identity(always=False), nullable=False),
        Column("ordering_key", Text),
        Column("headers", JSONB, nullable=False, server_default=text("'{}'")),
        Column("topic", Text),
        Column("available_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("last_error", Text),
        Column("sent_at", DateTime(timezone=True)),
        schema=schema,
    )
    _store(table, AUTOVACUUM)
    unsent, sent = text("status <> 'SENT'"), text("status = 'SENT'")
    Index(f"{name}_tenant_status_seq", table.c.tenant_id, table.c.status, table.c.seq, postgresql_where=unsent)
    sent_since = func.coalesce(table.c.sent_at, table.c.created_at)
    Index(f"{name}_sent", table.c.tenant_id, sent_since, postgresql_where=sent)
    waits = text("status = 'NEW' AND retry_cnt > 0")
    Index(f"{name}_retry", table.c.tenant_id, table.c.available_at, postgresql_where=waits)
    key = func.hashtextextended(func.coalesce(table.c.ordering_key, table.c.aggregate_id), text("0"))
    Index(f"{name}_failed_key", table.c.tenant_id, key, table.c.seq, postgresql_where=text("status = 'ERR'"))
    _make_lane_tables(metadata, name, schema)
    return table


def _make_lane_tables(metadata: MetaData, name: str, schema: str | None) -> None:
    """What they are for is said in `lane_tables.sql`."""
    Table(
        f"{name}_layout",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("lanes", Integer, nullable=False),
        Column("origin", Text, nullable=False, server_default=text("(gen_random_uuid())::text")),
        schema=schema,
    )
    member = Table(
        f"{name}_member",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("name", Text, primary_key=True),
        Column("number", BigInteger, Identity(always=True), nullable=False),
        Column("wanted", Integer, nullable=False),
        Column("beat_at", DateTime(timezone=True), nullable=False),
        schema=schema,
    )
    lane = Table(
        f"{name}_lane",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("owner", Text),
        Column("epoch", BigInteger, nullable=False, server_default=text("0")),
        Column("lease_until", DateTime(timezone=True)),
        schema=schema,
    )
    stream = Table(
        f"{name}_stream",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("topic", Text, primary_key=True),
        Column("next_sequence", BigInteger, nullable=False),
        schema=schema,
    )
    Table(
        f"{name}_flight",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("lane", Integer, primary_key=True, autoincrement=False),
        Column("number", BigInteger, Identity(always=True), primary_key=True),
        Column("topic", Text, nullable=False),
        Column("first_sequence", BigInteger, nullable=False),
        Column("ids", ARRAY(Uuid), nullable=False),
        Column("by_key", Boolean, nullable=False, server_default=text("false")),
        schema=schema,
    )
    for often_updated in (member, lane, stream):
        _store(often_updated, {"fillfactor": 50})
    _make_request_table(metadata, name, schema)


def _store(table: Table, parameters: Mapping[str, int]) -> None:
    """Sets storage parameters of a table where the metadata creates it. (SQLAlchemy knows them from 2.1 on.)"""
    settings = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    event.listen(table, "after_create", DDL(f"ALTER TABLE %(fullname)s SET ({settings})"))  # type: ignore[no-untyped-call] # SQLAlchemy gives it no types


def _make_request_table(metadata: MetaData, name: str, schema: str | None) -> None:
    """What it is for is said in `request_table.sql`."""
    now = func.clock_timestamp()
    Table(
        f"{name}_request",
        metadata,
        Column("tenant_id", Text, primary_key=True),
        Column("action", Text, primary_key=True),
        Column("request_id", Text, primary_key=True),
        Column("filter", JSONB, nullable=False),
        Column("through_seq", BigInteger, nullable=False),
        Column("after_seq", BigInteger),
        Column("events", BigInteger, nullable=False, server_default=text("0")),
        Column("begun_at", DateTime(timezone=True), nullable=False, server_default=now),
        Column("completed_at", DateTime(timezone=True)),
        schema=schema,
    )


mapper_registry = registry()
outbox_table = make_outbox_table(mapper_registry.metadata)


@mapper_registry.mapped
class OutboxRecord:
    """One row of the outbox with the default name and schema, for reading it through the ORM."""

    __table__ = outbox_table
