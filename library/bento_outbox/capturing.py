"""Catches the events that aggregates register, for tests of the domain: no database, no session, no tenant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from bento_outbox import context
from bento_outbox.event_types import DomainEvent
from bento_outbox.outbox import Outbox

_E = TypeVar("_E")
_OUTBOX = Outbox(tenant="nobody")


class CapturedEvents(list[Any]):
    """The registered events in order, comparable with a list. An event that could not be stored is refused here too."""

    def register(
        self,
        event: DomainEvent,
        *,
        headers: Mapping[str, str] | None = None,
        ordering_key: str | None = None,
        topic: str | None = None,
    ) -> None:
        """Takes an event, as a unit of work would. Raises EventNotEncodable, MisuseError."""
        _OUTBOX.seal(event, headers=headers, ordering_key=ordering_key, topic=topic)
        self.append(event)

    def of_type(self, cls: type[_E]) -> list[_E]:
        """Those of one class."""
        return [event for event in self if isinstance(event, cls)]


@contextmanager
def capture_events() -> Iterator[CapturedEvents]:
    """While the block runs, events that are registered in this context go into the list it yields."""
    captured = CapturedEvents()
    outer = context.current.get()
    context.current.set(captured)
    try:
        yield captured
    finally:
        context.current.set(outer)
