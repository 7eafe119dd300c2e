"""Which unit of work is current, so that an aggregate can register events without being handed one.

A ContextVar: each asyncio task sees the unit of work that was current where the task was created. A plain thread
does not; `asyncio.to_thread` and FastAPI's sync endpoints copy the context and do.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from bento_outbox.errors import NoActiveUnitOfWork
from bento_outbox.event_types import DomainEvent

if TYPE_CHECKING:
    from bento_outbox.unit_of_work import UnitOfWork

current: ContextVar[UnitOfWork | None] = ContextVar("bento_outbox_unit_of_work", default=None)


def register_event_from_aggregate(event: DomainEvent) -> None:
    """Registers `event` with the current unit of work, which writes it to the outbox when it commits.

    Raises NoActiveUnitOfWork outside of one, EventNotEncodable if the event cannot be stored.
    """
    unit = current.get()
    if unit is None:
        raise NoActiveUnitOfWork(
            f"{type(event).__name__} was registered outside a unit of work: "
            "call the aggregate inside `async with UnitOfWork(...)`, in the same task or one started from it"
        )
    unit.register(event)
