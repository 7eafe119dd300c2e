"""The envelope: one event as it is stored in a row and travels to the bus.

A domain event is the application's own class. Around it go the things that delivery needs: identity, tenant,
aggregate, logical type, version. Rows, the message bus and the projector speak of envelopes only.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from uuid import UUID

import msgspec


def rfc3339(moment: datetime) -> str:
    """What `isoformat` makes of a moment in UTC, at a ninth of its cost, which is a third of a message's."""
    text: str = msgspec.to_builtins(moment)
    return f"{text[:-1]}+00:00"  # Z means the same, but consumers may compare texts


class Envelope(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event, ready to be stored or published.

    id            identity of the event; primary key of its row, property `event_id` of its message
    tenant_id     whose event it is
    aggregate_id  what it happened to; events of one aggregate are kept in order, so it is the message key
    type          logical name that survives a rename of the class, such as `orders.OrderPlaced`
    schema_id     name of the payload's schema, None if the writer gave none
    schema_ver    version of that schema, an integer from 1, None if the writer gave none
    payload       the body, JSON in UTF-8, published byte for byte as it is here
    headers       text pairs that travel as message properties
    ordering_key  overrides aggregate_id as the message key
    topic         overrides the routing of the bus for this event
    created_at    when the row was written, by the clock of the database; None before it is stored
    """

    id: UUID
    tenant_id: str
    aggregate_id: str
    type: str
    payload: bytes
    schema_id: str | None = None
    schema_ver: int | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    ordering_key: str | None = None
    topic: str | None = None
    created_at: datetime | None = None

    @property
    def key(self) -> str:
        """What has the same key stays in order; an empty ordering_key is one."""
        return self.aggregate_id if self.ordering_key is None else self.ordering_key

    @property
    def created_in_utc(self) -> datetime | None:
        """`created_at` in UTC. The driver gives `infinity`, which a table may hold, as a moment without a zone."""
        moment = self.created_at
        if moment is None or moment.tzinfo is UTC:
            return moment
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
