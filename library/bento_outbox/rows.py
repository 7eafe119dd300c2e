"""Writes envelopes as rows: one INSERT, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Engine, Table
from sqlalchemy.orm import Session

from bento_outbox.envelope import Envelope
from bento_outbox.errors import MisuseError
from bento_outbox.statements import statement


class RowWriter:
    """Writes into one table. Made by `writer_of`."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._write = statement("bento_outbox", "write.sql", "write", table)
        self._owners = statement("bento_outbox", "write.sql", "owners", table)

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

        Returns the ids that were there before, of the same events. Raises MisuseError, and stores nothing, when an id
        is that of another event. What the database raises is passed on and fails the transaction.
        """
        _refuse_shared_ids(envelopes)
        events = msgspec.json.encode(
            [_as_json(event, seconds) for event, seconds in zip(envelopes, hold_seconds, strict=True)]
        )
        known = set(connection.execute(self._write, {"events": events.decode()}).scalars())
        if known:
            self._refuse_others(connection, {event.id: event for event in envelopes if event.id in known})
        return known

    def _refuse_others(self, connection: Connection, events: Mapping[UUID, Envelope]) -> None:
        owners = {row.id: row for row in connection.execute(self._owners, {"ids": list(events)})}
        for event in events.values():
            owner = owners.get(event.id)
            if owner is None:
                raise MisuseError(
                    f"event {event.type!r} has the id {event.id} of an event that this role cannot see, such as "
                    "another tenant's, or that was deleted just now: give each event an id of its own, or try again"
                )
            if _identity(owner) != _identity(event):
                raise MisuseError(
                    f"event {event.type!r} of {event.aggregate_id!r} has the id {event.id} of event {owner.type!r} of "
                    f"{owner.aggregate_id!r}: give each event an id of its own"
                )


@cache
def writer_of(table: Table) -> RowWriter:
    """The writer of a table: one, so that all its events keep one order."""
    return RowWriter(table)


def _refuse_shared_ids(envelopes: Sequence[Envelope]) -> None:
    """One statement takes the first of an id and no other, such as where a class has one id for all its events."""
    seen: dict[UUID, Envelope] = {}
    for event in envelopes:
        first = seen.setdefault(event.id, event)
        if first is not event and (_identity(first), first.payload) != (_identity(event), event.payload):
            raise MisuseError(
                f"two events of one transaction, {first.type!r} of {first.aggregate_id!r} and {event.type!r} of "
                f"{event.aggregate_id!r}, have the id {event.id}: give each event an id of its own"
            )


def _identity(event: Any) -> tuple[str, str, str]:
    """What an event with the same id has as well. event: an envelope, or a row."""
    return event.tenant_id, event.type, event.aggregate_id


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
