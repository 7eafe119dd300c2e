"""Domain events: which classes are events, under which name, and how they become JSON and come back.

The name is given by hand, not taken from the class: a class may be renamed or moved, while rows and consumers
that know the old name live on. The version counts the changes of the payload: an upcaster for each step lets the
class of today read the payloads of yesterday.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import FunctionType
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from bento_outbox.errors import EventNotEncodable, MisuseError
from bento_outbox.stored_text import stored_name, stored_text


class DomainEvent(Protocol):
    """What an event must offer: the id of the aggregate it happened to.

    An attribute `event_id` of type UUID is taken as the event's identity where there is one, so that writing the
    same event twice stores it once; otherwise each registration gets a new one. New ids rise with time (RFC 9562,
    version 7): with random ones each row that is written or marked touches a page of its own of the primary key.
    """

    @property
    def aggregate_id(self) -> str:
        """What it happened to; events of one aggregate are kept in order."""
        ...


@dataclass(frozen=True, slots=True)
class EventType:
    """The logical type of an event class: `name`, and the id and version (from 1) of its payload's schema."""

    name: str
    schema_id: str
    version: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """An event as delivery sees it."""

    type: EventType
    event_id: UUID
    aggregate_id: str
    payload: bytes


Payload = dict[str, Any]
Upcaster = Callable[[Payload], Payload]

_types: dict[type, EventType] = {}
_classes: dict[str, type] = {}
_constants: dict[type, frozenset[str]] = {}
_upcasters: dict[tuple[str, int], Upcaster] = {}
_C = TypeVar("_C", bound=type)
_U = TypeVar("_U", bound=Upcaster)

# JSON that Postgres' jsonb cannot hold: the character NUL, escaped by an odd number of backslashes.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def event_type(name: str, *, version: int = 1, schema_id: str | None = None) -> Callable[[_C], _C]:
    """Class decorator: registers a dataclass, attrs class, msgspec Struct or pydantic model as the event type `name`.

    version: of the payload's schema, an integer from 1. schema_id: defaults to `name`.
    Raises MisuseError if another class already has that name, it is no name, or the version is below 1.
    """
    if not isinstance(name, str):
        raise MisuseError(f'{name!r} is no name of an event type: write @event_type("some.stable.name")')
    name = stored_name("the name of an event type", name)
    if not name:
        raise MisuseError("the name of an event type is empty: give one that is stable, such as orders.OrderPaid")
    if schema_id is not None:
        schema_id = stored_text(f"event type {name!r}: schema_id", schema_id)
    _check_version(name, "version", version)

    def register(cls: _C) -> _C:
        known = _classes.get(name)
        if known is not None and _place_of(known) != _place_of(cls):
            raise MisuseError(
                f"event type {name!r} is already {known.__module__}.{known.__qualname__}: "
                f"give {cls.__module__}.{cls.__qualname__} a name of its own"
            )
        _refuse_private_fields(name, cls)
        _constants[cls] = _constants_of(cls)
        _classes[name] = cls
        _types[cls] = EventType(name, schema_id or name, version)
        return cls

    return register


def _refuse_private_fields(name: str, cls: type) -> None:
    """Raises MisuseError when msgspec, which writes the payload, would leave fields out without a word."""
    private = [field.name for field in getattr(cls, "__attrs_attrs__", ()) if field.name.startswith("_")]
    if private:
        raise MisuseError(
            f"event type {name!r}: the payload would lack {', '.join(private)}, since fields of attrs classes with a "
            "leading underscore are not written: rename them"
        )


def _constants_of(cls: type) -> frozenset[str]:
    """Fields of a dataclass that may be the class's own, not the event's: msgspec leaves these out as well."""
    if not is_dataclass(cls):
        return frozenset()
    in_slots = {slot for base in cls.__mro__ for slot in base.__dict__.get("__slots__", ())}
    constants = (field.name for field in fields(cls) if not field.init and field.default is not MISSING)
    return frozenset(constants) - in_slots


def _place_of(thing: type | Upcaster) -> tuple[str, str, int]:
    """Where it is defined: a module that is loaded again defines the same thing again."""
    line = thing.__code__.co_firstlineno if isinstance(thing, FunctionType) else 0
    return thing.__module__, thing.__qualname__, line


def _check_version(name: str, what: str, version: object) -> None:
    if not isinstance(version, int) or version < 1:
        raise MisuseError(f"event type {name!r}: {what} is {version!r}, but versions count from 1")


def upcaster(name: str, *, from_version: int) -> Callable[[_U], _U]:
    """Decorator: the function turns a payload of `from_version` into one of the next version, as decoded JSON.

    Raises MisuseError if another function does this step already, or the version is below 1.
    """
    _check_version(name, "from_version", from_version)

    def register(function: _U) -> _U:
        known = _upcasters.get((name, from_version))
        if known is not None and _place_of(known) != _place_of(function):
            raise MisuseError(f"event type {name!r} has an upcaster from version {from_version} already")
        _upcasters[name, from_version] = function
        return function

    return register


def encode(event: DomainEvent) -> Encoded:
    """The event as JSON. Done at registration, so that what JSON cannot hold fails the caller, not the projector.

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
    aggregate_id = stored_text(f"the aggregate_id of event {known.name!r}", aggregate_id)
    event_id = getattr(event, "event_id", None)
    if event_id is None:
        event_id = uuid7()
    if not isinstance(event_id, UUID):
        raise EventNotEncodable(f"event {known.name!r} has event_id {event_id!r}: it must be a UUID, or not be there")
    return Encoded(known, event_id, aggregate_id, _to_json(event, known))


def decode(type: str, version: int | str | None, payload: bytes) -> Any:  # noqa: A002 - as the column is called
    """The event that a row or message holds, for consumers that have its class; older versions are upcast.

    type, version: columns of the row or properties of the message, `type` and `schema_ver`, where a version is text;
    no version counts as the current one.
    Raises MisuseError when the type is unknown, the version is none or newer than the class, or a step has no
    upcaster; the class's own errors when the payload does not fit.
    """
    if isinstance(version, str):
        version = int(version) if version.isdecimal() else 0
    if version is not None:
        _check_version(type, "schema_ver", version)
    cls = _classes.get(type)
    if cls is None:
        raise MisuseError(f"event type {type!r} is not registered: import the module that defines its class")
    current = _types[cls].version
    if version is not None and version > current:
        raise MisuseError(
            f"event type {type!r} has version {version}, but its class here is {current}: upgrade this consumer"
        )
    if version is not None and version < current:
        payload = _upcast(type, version, current, payload)
    if hasattr(cls, "model_validate_json"):
        return cls.model_validate_json(payload)
    return msgspec.json.decode(payload, type=cls)


def _upcast(name: str, version: int, current: int, payload: bytes) -> bytes:
    content = msgspec.json.decode(payload)
    for step in range(version, current):
        if (name, step) not in _upcasters:
            raise MisuseError(
                f"event type {name!r} has version {version}, its class {current}, and there is no "
                f"@upcaster({name!r}, from_version={step})"
            )
        content = _upcasters[name, step](content)
        if not isinstance(content, dict):
            raise MisuseError(
                f"event type {name!r}: the upcaster from version {step} returned {content!r}, not the newer payload"
            )
    return msgspec.json.encode(content)


def _to_json(event: DomainEvent, known: EventType) -> bytes:
    if (constants := _constants[type(event)]) and (left_out := constants - vars(event).keys()):
        raise EventNotEncodable(
            f"event {known.name!r}: the payload would lack {', '.join(sorted(left_out))}, of which the event has no "
            "value of its own: let it be given to __init__, set it in __post_init__, or give the dataclass slots"
        )
    to_json = getattr(event, "model_dump_json", None)
    try:
        # By the names that the model itself is read by, and without what it computes: it is to be read again.
        payload = to_json(by_alias=True, round_trip=True).encode() if to_json else msgspec.json.encode(event)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EventNotEncodable(f"event {known.name!r} cannot be written as JSON: {error}") from error
    if b"null" in payload and _has_no_number(_plain(event)):
        raise EventNotEncodable(
            f"event {known.name!r} holds NaN or an infinity, which JSON cannot: it would become null"
        )
    if b"\\u0000" in payload and _NUL.search(payload):
        raise EventNotEncodable(f"event {known.name!r} holds the character NUL, which Postgres cannot store in JSON")
    return payload


def _plain(event: Any) -> Any:
    """Its fields as dicts, lists and scalars."""
    return event.model_dump() if hasattr(event, "model_dump") else msgspec.to_builtins(event)


def _has_no_number(value: Any) -> bool:
    """Whether somewhere in it is a float that is none."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_has_no_number, value.values()))
    return isinstance(value, list | tuple | set | frozenset | deque) and any(map(_has_no_number, value))
