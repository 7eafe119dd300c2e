"""Bento Outbox, the write side: domain events stored in the same transaction as the data they tell of.

Everything an application needs is importable from here; modules below are not part of the promise.
"""

from importlib.metadata import version

from bento_outbox.bus import InMemoryMessageBus, MessageBus
from bento_outbox.context import register_event_from_aggregate
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
from bento_outbox.event_types import DomainEvent, event_type
from bento_outbox.table import OutboxRecord, make_outbox_table
from bento_outbox.unit_of_work import HoldsEvents, Repository, UnitOfWork

__version__ = version("bento-outbox")

__all__ = [
    "BusUnavailable",
    "DomainEvent",
    "Envelope",
    "EventNotEncodable",
    "EventsRefused",
    "HoldsEvents",
    "InMemoryMessageBus",
    "MessageBus",
    "MisuseError",
    "NoActiveUnitOfWork",
    "OutboxError",
    "OutboxRecord",
    "Refusal",
    "Repository",
    "SchemaError",
    "TenantMissing",
    "UnitOfWork",
    "__version__",
    "event_type",
    "make_outbox_table",
    "register_event_from_aggregate",
]
