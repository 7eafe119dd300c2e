"""Writes envelopes as rows: one INSERT, however many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Table
from sqlalchemy.orm import Session

from bento_outbox.envelope import Envelope
from bento_outbox.pending import refuse_autocommit
from bento_outbox.statements import statement

_text: Callable[[Any], str] = lambda value: msgspec.json.encode(value).decode()  # noqa: E731 - a type and a name


class RowWriter:
    """Writes into one table."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._write = statement("bento_outbox", "write.sql", "write", table)

    def __call__(self, session: Session, envelopes: Sequence[Envelope], hold_seconds: Sequence[float]) -> None:
        """hold_seconds: for each envelope, how long the projector leaves it alone, by the clock of the database.

        Raises MisuseError in AUTOCOMMIT; what the database raises is passed on and fails the transaction.
        """
        bind = {"clause": self._table}
        refuse_autocommit(session.connection(bind_arguments=bind))
        session.execute(
            self._write,
            {
                "id": [event.id for event in envelopes],
                "tenant_id": [event.tenant_id for event in envelopes],
                "aggregate_id": [event.aggregate_id for event in envelopes],
                "type": [event.type for event in envelopes],
                "schema_id": [event.schema_id for event in envelopes],
                "schema_ver": [event.schema_ver for event in envelopes],
                "payload": [event.payload.decode() for event in envelopes],
                "headers": [_text(dict(event.headers)) for event in envelopes],
                "ordering_key": [event.ordering_key for event in envelopes],
                "topic": [event.topic for event in envelopes],
                "hold_seconds": list(hold_seconds),
            },
            bind_arguments=bind,
        )
