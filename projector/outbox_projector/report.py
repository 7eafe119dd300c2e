"""What the projector says about itself in the OutboxTenant's status, and when that is worth a write. Pure."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bento_outbox import __version__
from outbox_projector.health import Health
from outbox_projector.policies import Random

Status = dict[str, Any]

LAG_STEP_SECONDS = 2
LAG_STEP_FACTOR = 1.5


WRITES_AT_ONCE = 5
SECONDS_A_WRITE = 15.0
"""Material changes are written at once as long as they come no faster than this in the long run: a tenant that flaps
may not keep the API server busy."""
EARLIEST = 0.8
"""Of the time between two heartbeats."""
SETTLED_SECONDS = 60.0
"""After so long the pod before has ended: its grace is 30 s. What a pod said first is said again then, since the one
before it may have spoken in between."""


class Pace:
    """When a write may be: anything once a heartbeat, material changes sooner. Takes seconds since the write before."""

    def __init__(self, heartbeat_seconds: float, uniform: Random = random.uniform) -> None:
        self._longest = heartbeat_seconds
        self._uniform = uniform
        self._tokens = float(WRITES_AT_ONCE)
        self._heartbeat = 0.0
        self._age = 0.0

    def allows(self, elapsed: float, *, material: bool) -> bool:
        return elapsed >= self._heartbeat or (material and self._filled(elapsed) >= 1)

    def wrote(self, elapsed: float) -> None:
        self._tokens = max(0.0, self._filled(elapsed) - 1)
        self._age += elapsed
        is_settled = self._age >= EARLIEST * SETTLED_SECONDS
        longest = self._longest if is_settled else min(SETTLED_SECONDS, self._longest)
        # Tenants that were started together shall not report together for ever; never later than promised.
        self._heartbeat = self._uniform(EARLIEST * longest, longest)

    def _filled(self, elapsed: float) -> float:
        return min(float(WRITES_AT_ONCE), self._tokens + elapsed / SECONDS_A_WRITE)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def build_status(health: Health, *, shown: Mapping[str, Any], events_per_second: float, now: datetime) -> Status:
    """The fields of `status` that belong to the projector.

    shown: the status as it is. A condition that has the same status there has it since then, and the last event is that
    of whoever published: a restart, or the report of another replica, is no transition.
    """
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
    published = shown.get("projector", {}).get("lastPublishedTime")
    if health.last_published is not None:
        published = timestamp(health.last_published)
    if published is not None:
        projector["lastPublishedTime"] = published
    since = {
        (condition["type"], condition["status"]): condition["lastTransitionTime"]
        for condition in shown.get("conditions", ())
    }
    conditions = [
        {
            "type": condition.type,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": since.get((condition.type, condition.status), timestamp(condition.since)),
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
