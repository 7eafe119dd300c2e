"""Every error that the library raises, and whose move is next.

    OutboxError
    ├── MisuseError             the calling code is wrong: fix it, do not retry
    │   ├── NoActiveUnitOfWork  an event was registered outside a unit of work
    │   ├── TenantMissing       nobody said whose event it is
    │   └── EventNotEncodable   the event is no registered type, or holds a value that JSON cannot
    ├── SchemaError             the table in the database is not the one this version needs
    ├── BusUnavailable          outage or refusal of service: nobody's fault, the same call later may succeed
    └── EventsRefused           the bus works, but does not take these events

Driver errors are translated at one boundary each and kept as `__cause__`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID


class OutboxError(Exception):
    """Root of all errors raised by Bento Outbox."""


class MisuseError(OutboxError):
    """The calling code is wrong; the message names the cure."""


class NoActiveUnitOfWork(MisuseError):
    """An event was registered while no unit of work was active in this context."""


class TenantMissing(MisuseError):
    """A unit of work holds events, but was given no tenant."""


class EventNotEncodable(MisuseError):
    """An event is not of a registered type, has no aggregate id, or cannot be written as JSON."""


class SchemaError(OutboxError):
    """The outbox table is missing or lacks columns; the message names the command that mends it."""


class BusUnavailable(OutboxError):
    """The bus could not be used: down, unreachable, or closed to us. Not the fault of any event.

    reason: one CamelCase word from the fixed list in `docs/reasons.md`, fit for a Kubernetes condition.
    stored: ids of the events of this call that the bus acknowledged before it went away.
    """

    def __init__(self, message: str, *, reason: str = "BrokerUnreachable", stored: Collection[UUID] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.stored = frozenset(stored)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the bus does not take one event.

    permanent: no later attempt can succeed (too large, invalid topic name), so retrying is pointless.
    """

    reason: str
    permanent: bool = False


class EventsRefused(OutboxError):
    """The bus refused some events of a call. Every event of the call that is not in `refused` is stored."""

    def __init__(self, refused: Mapping[UUID, Refusal]) -> None:
        self.refused = dict(refused)
        first = next(iter(self.refused.values()), Refusal("no reason given"))
        super().__init__(f"{len(self.refused)} event(s) refused, the first because: {first.reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.refused,)
