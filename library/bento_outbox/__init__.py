"""Bento Outbox, the write side: domain events stored in the same transaction as the data they tell of.

Everything an application needs is importable from here, or from the modules that only some need:

    bento_outbox.migrations     the table in the application's own Alembic history
    bento_outbox.tenant_roles   row-level security: which role of the database acts for which tenant
    bento_outbox.integrations   FastAPI and Litestar
    bento_outbox.cloudevents    messages as CloudEvents
    bento_outbox.pulsar_bus     the bus for Pulsar
    bento_outbox.testing        the testing kit

Other modules are not part of the promise.

Names are imported when they are first asked for: whoever speaks of events and errors only, such as the projector, does
not load SQLAlchemy for it (20 MB and a quarter of a second).
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bento_outbox.bus import InMemoryMessageBus, MessageBus
    from bento_outbox.codec import Codec, opened, sealed
    from bento_outbox.context import register_event_from_aggregate
    from bento_outbox.direct_publish import DirectPublish
    from bento_outbox.envelope import Envelope
    from bento_outbox.errors import (
        BusUnavailable,
        EventNotEncodable,
        EventsRefused,
        MisuseError,
        NoActiveUnitOfWork,
        OutboxError,
        Refusal,
        SchemaError,
        TenantMissing,
    )
    from bento_outbox.event_types import DomainEvent, decode, event_type, upcaster
    from bento_outbox.headers import in_conversation
    from bento_outbox.inbox import Inbox, make_inbox_table
    from bento_outbox.outbox import Outbox
    from bento_outbox.repository import HoldsEvents, Repository
    from bento_outbox.schema import apply_schema, schema_sql, validate_schema
    from bento_outbox.table import OutboxRecord, make_outbox_table
    from bento_outbox.tenancy import acting_for
    from bento_outbox.unit_of_work import UnitOfWork

__version__ = version("bento-outbox")

__all__ = [
    "BusUnavailable",
    "Codec",
    "DirectPublish",
    "DomainEvent",
    "Envelope",
    "EventNotEncodable",
    "EventsRefused",
    "HoldsEvents",
    "InMemoryMessageBus",
    "Inbox",
    "MessageBus",
    "MisuseError",
    "NoActiveUnitOfWork",
    "Outbox",
    "OutboxError",
    "OutboxRecord",
    "Refusal",
    "Repository",
    "SchemaError",
    "TenantMissing",
    "UnitOfWork",
    "__version__",
    "acting_for",
    "apply_schema",
    "decode",
    "event_type",
    "in_conversation",
    "make_inbox_table",
    "make_outbox_table",
    "opened",
    "register_event_from_aggregate",
    "schema_sql",
    "sealed",
    "upcaster",
    "validate_schema",
]

_NAMES_OF = {
    "bus": ("InMemoryMessageBus", "MessageBus"),
    "codec": ("Codec", "opened", "sealed"),
    "context": ("register_event_from_aggregate",),
    "direct_publish": ("DirectPublish",),
    "envelope": ("Envelope",),
    "errors": (
        "BusUnavailable",
        "EventNotEncodable",
        "EventsRefused",
        "MisuseError",
        "NoActiveUnitOfWork",
        "OutboxError",
        "Refusal",
        "SchemaError",
        "TenantMissing",
    ),
    "event_types": ("DomainEvent", "decode", "event_type", "upcaster"),
    "headers": ("in_conversation",),
    "inbox": ("Inbox", "make_inbox_table"),
    "outbox": ("Outbox",),
    "repository": ("HoldsEvents", "Repository"),
    "schema": ("apply_schema", "schema_sql", "validate_schema"),
    "table": ("OutboxRecord", "make_outbox_table"),
    "tenancy": ("acting_for",),
    "unit_of_work": ("UnitOfWork",),
}
_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
