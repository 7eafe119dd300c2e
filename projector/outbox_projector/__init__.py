"""Bento Outbox, the projector: carries one tenant's outbox rows to the message bus."""

from outbox_projector.loop import OutboxProjector
from outbox_projector.policies import Polling, Retries

__all__ = ["OutboxProjector", "Polling", "Retries"]
