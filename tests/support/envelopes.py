"""Envelopes with everything filled in that a test does not care about."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from bento_outbox import Envelope


def envelope(**fields: Any) -> Envelope:
    """An event of tenant `acme`, unless `fields` say otherwise."""
    usual: dict[str, Any] = {
        "id": uuid4(),
        "tenant_id": "acme",
        "aggregate_id": "order-1",
        "type": "orders.Placed",
        "payload": b'{"total": 12}',
    }
    return Envelope(**(usual | fields))
