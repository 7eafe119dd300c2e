"""Which unit of work is current, so that an aggregate can register events without being handed one.

A ContextVar: each asyncio task sees the unit of work that was current where the task was created, and one that it
begins itself is seen by nobody else. A plain thread sees none; `asyncio.to_thread` and the sync endpoints of web
frameworks run in a copy of the context and see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol

from bento_outbox.errors import NoActiveUnitOfWork
from bento_outbox.event_types import DomainEvent


class Registrar(Protocol):
    """What takes events: a unit of work, or a test that only wants to see them."""

    def register(
        self,
        event: DomainEvent,
        *,
        headers: Mapping[str, str] | None = None,
        ordering_key: str | None = None,
        topic: str | None = None,
    ) -> object: ...


current: ContextVar[Registrar | None] = ContextVar("bento_outbox_unit_of_work", default=None)


def register_event_from_aggregate(
    event: DomainEvent,
    *,
    headers: Mapping[str, str] | None = None,
    ordering_key: str | None = None,
    topic: str | None = None,
) -> None:
    """Registers `event` with the current unit of work, which stores it when it commits.

    headers: properties of the message, besides the trace and the ids of the conversation.
    ordering_key: the order of delivery goes by it instead of the aggregate's id.
    topic: instead of the one that the tenant's routing would choose.
    Raises NoActiveUnitOfWork outside of one, EventNotEncodable and MisuseError if the event cannot be stored.
    """
    registrar = current.get()
    if registrar is None:
        raise NoActiveUnitOfWork(
            f"{type(event).__name__} was registered outside a unit of work: "
            "call the aggregate inside `async with UnitOfWork(...)`, in the same task or one started from it"
        )
    registrar.register(event, headers=headers, ordering_key=ordering_key, topic=topic)
