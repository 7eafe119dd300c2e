"""Bento Outbox, the projector: carries one tenant's outbox rows to the message bus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from outbox_projector.policies import Polling, Retries

if TYPE_CHECKING:
    from outbox_projector.projector import OutboxProjector

__all__ = ["OutboxProjector", "Polling", "Retries"]


def __getattr__(name: str) -> Any:
    # It takes an application's sessions. The projector's own process does without SQLAlchemy: 20 MB for each tenant.
    if name == "OutboxProjector":
        from outbox_projector.projector import OutboxProjector

        return OutboxProjector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
