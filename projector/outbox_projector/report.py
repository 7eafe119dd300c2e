"""What the projector says about itself in the OutboxTenant's status, and when that is worth a write. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bento_outbox import __version__
from outbox_projector.health import Health

Status = dict[str, Any]

LAG_STEP_SECONDS = 2
LAG_STEP_FACTOR = 1.5


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def build_status(health: Health, *, events_per_second: float, now: datetime) -> Status:
    """The fields of `status` that belong to the projector."""
    projector: Status = {
        "eventsPerSecond": round(events_per_second),
        "reportedTime": timestamp(now),
        "version": __version__,
    }
    if health.backlog is not None:
        projector |= {
            "pending": health.backlog.pending,
            "pendingIsLowerBound": health.backlog.pending_is_lower_bound,
            "oldestPendingSeconds": round(health.backlog.oldest_seconds),
            "errors": health.backlog.errors,
        }
    if health.last_published is not None:
        projector["lastPublishedTime"] = timestamp(health.last_published)
    conditions = [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": timestamp(condition.since),
        }
        for condition in health.conditions
    ]
    return {"conditions": conditions, "projector": projector}


def is_material(old: Status | None, new: Status) -> bool:
    """Whether people would want to see `new` now, instead of at the next heartbeat.

    Conditions, errors, and a lag that came, went, or changed by half. Pending rows that come and go within
    seconds are the normal life of an outbox and would have thousands of tenants write all the time.
    """
    if old is None or old["conditions"] != new["conditions"]:
        return True
    before, after = old["projector"], new["projector"]
    if before.get("errors") != after.get("errors"):
        return True
    return _lag_moved(before.get("oldestPendingSeconds", 0), after.get("oldestPendingSeconds", 0))


def _lag_moved(old: int, new: int) -> bool:
    low, high = sorted((old, new))
    return high - low >= LAG_STEP_SECONDS and high >= low * LAG_STEP_FACTOR
