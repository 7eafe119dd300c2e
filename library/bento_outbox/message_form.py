"""The form of a message: what of an event travels where, whoever publishes it. docs/message-form.md tells consumers.

payload     as it is stored, byte for byte
key         ordering_key, or else aggregate_id: what has the same key stays in order
properties  the columns under their own names, and the headers, which cannot bear the name of a column; where it is
            wanted, also the attributes that make the message a CloudEvent
event time  created_at, in milliseconds since 1970
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from bento_outbox.cloudevents import cloudevents_properties, source_of
from bento_outbox.envelope import Envelope, rfc3339
from bento_outbox.headers import COLUMNS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class Message(msgspec.Struct, frozen=True, gc=False):
    """One event as a consumer gets it. event_time: milliseconds since 1970, None if there is none after 1970."""

    payload: bytes
    key: str
    properties: dict[str, str]
    event_time: int | None

    @property
    def size(self) -> int:
        """Bytes of payload, key and properties. Raises UnicodeEncodeError: the message cannot be sent."""
        texts = "".join([self.key, *self.properties, *self.properties.values()])
        return len(self.payload) + len(texts.encode())


def message_of(event: Envelope, *, cloudevents_source: str | None = None) -> Message:
    """The event's message. cloudevents_source: see `check_source`; None: no CloudEvent."""
    created = event.created_in_utc
    properties: dict[str, str] = {}
    if event.headers:
        properties = {name: value for name, value in event.headers.items() if name not in COLUMNS}
    if cloudevents_source is not None:
        properties |= cloudevents_properties(event, source=source_of(event, cloudevents_source))
    properties["event_id"] = str(event.id)
    properties["type"] = event.type
    properties["tenant_id"] = event.tenant_id
    properties["aggregate_id"] = event.aggregate_id
    if event.schema_id is not None:
        properties["schema_id"] = event.schema_id
    if event.schema_ver is not None:
        properties["schema_ver"] = str(event.schema_ver)
    if created is not None:
        properties["created_at"] = rfc3339(created)
    return Message(
        event.payload,
        event.key,
        properties,
        None if created is None or created <= _EPOCH else (created - _EPOCH) // _MILLISECOND,
    )
