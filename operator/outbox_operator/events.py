"""Kubernetes Events about OutboxTenants: what `kubectl describe obt` shows at its end, and `kubectl events` in a row.

There is one when Ready or Degraded gets another reason, since that is when a person would want to look. The first state
of a new tenant, and what a restarted operator finds as it was, are no news.

Equal ones are one object: its name is made from the tenant, the reason and when it first happened, and when it happens
again its count grows. A tenant that flaps costs one write a minute; what came between is in the count. Another process,
which can't know the count, begins another object. An Event that can't be written is logged, and holds nothing up.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import structlog

from outbox_operator.cluster import Cluster
from outbox_operator.errors import ClusterError
from outbox_operator.keys import EVENT, FIELD_MANAGER, OUTBOX_TENANT, Manifest
from outbox_operator.reasons import EXPECTED

logger = structlog.get_logger(__name__)

QUIET_SECONDS: Final = 60
"""Between two writes of the same Event."""
FORGET_SECONDS: Final = 3600
"""As long as the API server keeps an Event by default; one that comes again after that is a new one."""
REMEMBERED: Final = 4096
MESSAGE_BYTES: Final = 1024
"""The API server's bound."""


class News(NamedTuple):
    """What an Event tells: `kind` is Normal or Warning."""

    kind: str
    reason: str
    message: str


def news(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[News]:
    """What is worth an Event, from the operator's conditions by type, as they were and as they are."""
    if not before:
        return
    told = set()
    for name in ("Ready", "Degraded"):
        old, new = before.get(name, {}), after[name]
        changed = (old.get("status"), old.get("reason")) != (new["status"], new["reason"])
        recovered = name == "Degraded" and new["status"] == "False"
        if changed and not recovered and new["reason"] not in told:
            told.add(new["reason"])
            kind = "Normal" if new["reason"] in EXPECTED else "Warning"
            yield News(kind, new["reason"], new["message"])


@dataclass(slots=True)
class _Series:
    first: datetime
    last: datetime
    written: datetime | None = None
    count: int = 0


class Recorder:
    """Writes the Events of this operator."""

    def __init__(self, cluster: Cluster, *, now: Callable[[], datetime]) -> None:
        self._cluster, self._now = cluster, now
        self._series: OrderedDict[tuple[str, str, str], _Series] = OrderedDict()
        """By the tenant's uid, kind and reason."""

    async def record(self, tenant: Manifest, what: News) -> None:
        """Writes it, or counts it when it was written just now."""
        now = self._now().astimezone(UTC)
        same = (tenant["metadata"]["uid"], what.kind, what.reason)
        series = self._series.pop(same, None)
        if series is None or (now - series.last).total_seconds() > FORGET_SECONDS:
            series = _Series(first=now, last=now)
        self._series[same] = series
        if len(self._series) > REMEMBERED:
            self._series.popitem(last=False)
        series.last, series.count = now, series.count + 1
        if series.written is not None and (now - series.written).total_seconds() < QUIET_SECONDS:
            return
        series.written = now
        try:
            await self._cluster.apply(EVENT, _manifest(tenant, what, series), force=True)
        except ClusterError as error:
            logger.warning("event not written", reason=what.reason, error=str(error))


def _name(tenant: Manifest, what: News, series: _Series) -> str:
    told = f"{tenant['metadata']['uid']} {what.kind} {what.reason} {series.first.isoformat()}"
    return f"{tenant['metadata']['name']}.{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _manifest(tenant: Manifest, what: News, series: _Series) -> Manifest:
    metadata = tenant["metadata"]
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": _name(tenant, what, series), "namespace": metadata["namespace"]},
        "involvedObject": {
            "apiVersion": OUTBOX_TENANT.api_version,
            "kind": OUTBOX_TENANT.kind,
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
        },
        "type": what.kind,
        "reason": what.reason,
        "message": what.message.encode()[:MESSAGE_BYTES].decode(errors="ignore"),
        "source": {"component": FIELD_MANAGER},
        "firstTimestamp": _timestamp(series.first),
        "lastTimestamp": _timestamp(series.last),
        "count": series.count,
    }


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
