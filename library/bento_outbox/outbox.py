"""The outbox as an application configures it once: whose events, into which table, in which form.

    outbox = Outbox(tenant=current_tenant)
    outbox.add(session, OrderPlaced(...))       # any session, async or sync
    await session.commit()                      # the rows of the session and the event, or neither

The unit of work is built on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import Table

from bento_outbox.codec import Codec, PlainJson
from bento_outbox.envelope import Envelope
from bento_outbox.errors import EventNotEncodable, MisuseError
from bento_outbox.event_types import DomainEvent, EventType, encode
from bento_outbox.headers import capture
from bento_outbox.rows import writer_of
from bento_outbox.session_events import AnySession, listen, take_along
from bento_outbox.stored_text import stored_name, stored_text
from bento_outbox.table import outbox_table
from bento_outbox.tenancy import TenantSource, resolve_tenant


class Outbox:
    """Takes events along with a session's transaction. Make one for the application and share it: it has no state."""

    def __init__(
        self,
        *,
        tenant: TenantSource = None,
        table: Table = outbox_table,
        codec: Codec | None = None,
    ) -> None:
        """tenant: whose events, a name or a callable, where the call does not say; else that of `acting_for`.

        table: made by `make_outbox_table`, if not `outbox` on the search path.
        codec: between JSON and the row, for encryption or compression.
        """
        if not isinstance(table, Table):
            raise MisuseError(f"the table is {table!r}: give one that `make_outbox_table` made")
        self.table = table
        self._tenant = tenant
        self._codec = codec or PlainJson()
        self._writer = writer_of(table)
        listen()

    def add(
        self,
        session: AnySession,
        event: DomainEvent,
        *,
        tenant_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        ordering_key: str | None = None,
        topic: str | None = None,
    ) -> Envelope:
        """Takes `event` along: it is stored when the session's transaction commits, and forgotten when it rolls back.

        Encoded now: raises EventNotEncodable, TenantMissing, MisuseError, before anything is stored.
        """
        envelope = self.seal(event, tenant_id=tenant_id, headers=headers, ordering_key=ordering_key, topic=topic)
        take_along(session, self._writer, envelope)
        return envelope

    def seal(
        self,
        event: DomainEvent,
        *,
        tenant_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        ordering_key: str | None = None,
        topic: str | None = None,
    ) -> Envelope:
        """The envelope of `event`, as `add` stores it. Raises EventNotEncodable, TenantMissing, MisuseError."""
        encoded = encode(event)
        tenant = resolve_tenant(tenant_id, self._tenant)
        return Envelope(
            id=encoded.event_id,
            tenant_id=tenant,
            aggregate_id=encoded.aggregate_id,
            type=encoded.type.name,
            schema_id=encoded.type.schema_id,
            schema_ver=encoded.type.version,
            payload=_checked(
                self._codec.encode(encoded.payload, tenant_id=tenant, type=encoded.type.name), encoded.type
            ),
            headers=capture(headers),
            ordering_key=_key(ordering_key),
            topic=None if topic is None else stored_name("topic", topic),
        )


def _key(ordering_key: str | None) -> str | None:
    if ordering_key == "":
        raise MisuseError("the ordering_key is empty: leave it out, and the aggregate_id is the key")
    return None if ordering_key is None else stored_text("ordering_key", ordering_key)


_json = msgspec.json.Decoder(msgspec.Raw)


def _checked(payload: bytes, kind: EventType) -> bytes:
    """The payload, when it is JSON: codecs and models are others' code, and it goes into a larger JSON as it is."""
    try:
        payload.decode()
        _json.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise EventNotEncodable(
            f"event {kind.name!r} was not encoded as JSON by its codec or model: {error}"
        ) from error
    return payload
