"""Bento Outbox, the projector: carries one tenant's outbox rows to the message bus."""

from outbox_projector.policies import Polling, Retries
from outbox_projector.projector import OutboxProjector

__all__ = ["OutboxProjector", "Polling", "Retries"]
