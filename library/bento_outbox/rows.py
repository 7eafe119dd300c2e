"""Writes envelopes as rows: one INSERT, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.orm import Session

from bento_outbox.envelope import Envelope
from bento_outbox.statements import statement


class RowWriter:
    """Writes into one table. Made by `writer_of`."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._write = statement("bento_outbox", "write.sql", "write", table)

    def bind_of(self, session: Session) -> Engine | Connection:
        """Where the session finds the table."""
        return session.get_bind(clause=self._table)

    def connection_of(self, session: Session) -> Connection:
        """The session's connection to the table, checked out if it is not yet."""
        return session.connection(bind_arguments={"clause": self._table})

    def __call__(
        self, connection: Connection, envelopes: Sequence[Envelope], hold_seconds: Sequence[float]
    ) -> set[UUID]:
        """hold_seconds: for each envelope, how long the projector leaves it alone, by the clock of the database.

        Returns the ids that were there before. What the database raises is passed on and fails the transaction.
        """
        events = msgspec.json.encode(
            [_as_json(event, seconds) for event, seconds in zip(envelopes, hold_seconds, strict=True)]
        )
        return set(connection.execute(self._write, {"events": events.decode()}).scalars())


@cache
def writer_of(table: Table) -> RowWriter:
    """The writer of a table: one, so that all its events keep one order."""
    return RowWriter(table)


def _as_json(event: Envelope, hold_seconds: float) -> dict[str, object]:
    return {
        "id": event.id,
        "tenant_id": event.tenant_id,
        "aggregate_id": event.aggregate_id,
        "type": event.type,
        "schema_id": event.schema_id,
        "schema_ver": event.schema_ver,
        "payload": msgspec.Raw(event.payload),
        "headers": event.headers,
        "ordering_key": event.ordering_key,
        "topic": event.topic,
        "hold_seconds": hold_seconds,
    }
