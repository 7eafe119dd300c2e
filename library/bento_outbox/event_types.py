"""Domain events: which classes are events, under which name, and how they become JSON.

The name is given by hand, not taken from the class: a class may be renamed or moved, while rows and consumers
that know the old name live on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID, uuid4

import msgspec

from bento_outbox.envelope import Envelope
from bento_outbox.errors import EventNotEncodable, MisuseError


class DomainEvent(Protocol):
    """What an event class must offer: `aggregate_id`, the id of the aggregate it happened to, a non-empty string.

    An attribute `event_id` of type UUID is taken as the event's identity where there is one, so that writing the
    same event twice stores it once; otherwise each registration gets a new random id.
    """

    @property
    def aggregate_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class EventType:
    """The logical type of an event class: `name`, and the id and version (from 1) of its payload's schema."""

    name: str
    schema_id: str
    version: int


_types: dict[type, EventType] = {}
_classes: dict[str, type] = {}
_C = TypeVar("_C", bound=type)


def event_type(name: str, *, version: int = 1, schema_id: str | None = None) -> Callable[[_C], _C]:
    """Class decorator: registers a dataclass, attrs class or msgspec Struct as the event type `name`.

    version: of the payload's schema, an integer from 1. schema_id: defaults to `name`.
    Raises MisuseError if another class already has that name, or the version is below 1.
    """
    if version < 1:
        raise MisuseError(f"event type {name!r}: version is {version}, but versions count from 1")

    def register(cls: _C) -> _C:
        known = _classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise MisuseError(
                f"event type {name!r} is already {known.__module__}.{known.__qualname__}: "
                f"give {cls.__module__}.{cls.__qualname__} a name of its own"
            )
        _classes[name] = cls
        _types[cls] = EventType(name, schema_id or name, version)
        return cls

    return register


def seal(event: DomainEvent, *, tenant_id: str) -> Envelope:
    """The envelope of `event`. Encodes now, so that a value JSON cannot hold fails the caller, not the projector.

    Raises EventNotEncodable.
    """
    cls = type(event)
    known = _types.get(cls)
    if known is None:
        raise EventNotEncodable(
            f"{cls.__module__}.{cls.__qualname__} is not a registered event type: "
            f'decorate the class with @event_type("some.stable.name")'
        )
    aggregate_id = getattr(event, "aggregate_id", None)
    if not isinstance(aggregate_id, str) or not aggregate_id:
        raise EventNotEncodable(
            f"event {known.name!r} has aggregate_id {aggregate_id!r}: "
            f"it must be a non-empty string, since it decides the order of delivery"
        )
    event_id = getattr(event, "event_id", None)
    try:
        payload = msgspec.json.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EventNotEncodable(f"event {known.name!r} cannot be written as JSON: {error}") from error
    return Envelope(
        id=event_id if isinstance(event_id, UUID) else uuid4(),
        tenant_id=tenant_id,
        aggregate_id=aggregate_id,
        type=known.name,
        schema_id=known.schema_id,
        schema_ver=known.version,
        payload=payload,
    )
