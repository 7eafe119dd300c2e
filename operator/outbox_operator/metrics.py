"""Prometheus metrics of one replica, read at each scrape from the parts that know.

What tenants there are, and how they stand, only the replica that acts tells: otherwise each would be counted as often
as there are replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from outbox_operator.cache import Cache
from outbox_operator.keys import OUTBOX_TENANT, Key
from outbox_operator.rollouts import Rollouts
from outbox_operator.workqueue import WorkQueue

OF_A_TENANT: Final = ("namespace", "name", "tenant", "reason")


class _Condition(msgspec.Struct):
    type: str
    status: str
    reason: str


class _Status(msgspec.Struct):
    conditions: list[_Condition] = []


class _Spec(msgspec.Struct, rename="camel"):
    tenant_id: str


class _Metadata(msgspec.Struct):
    namespace: str
    name: str


class _Tenant(msgspec.Struct):
    """The little of an OutboxTenant that is told; the rest is not even decoded."""

    metadata: _Metadata
    spec: _Spec
    status: _Status = msgspec.field(default_factory=_Status)


class Metrics(Collector):
    """See the module. `writes` are how many objects of each kind were applied; `acts` tells whether we are who acts."""

    def __init__(
        self,
        *,
        cache: Cache,
        queue: WorkQueue[Key],
        rollouts: Rollouts,
        writes: Mapping[str, int],
        acts: Callable[[], bool],
    ) -> None:
        self._cache, self._queue, self._rollouts, self._applied, self._acts = cache, queue, rollouts, writes, acts
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        acts = self._acts()
        yield GaugeMetricFamily("outbox_operator_acting", "1 if this replica holds the Lease, 0 if it stands by", acts)
        yield CounterMetricFamily("outbox_operator_looks", "Looks at a tenant so far", self._queue.done)
        yield CounterMetricFamily("outbox_operator_failed_looks", "Looks that failed so far", self._queue.failed)
        yield self._writes()
        if acts:
            yield GaugeMetricFamily("outbox_operator_waiting_tenants", "Tenants to be looked at", self._queue.waiting)
            rolling, queued = self._rollouts.count()
            yield GaugeMetricFamily("outbox_operator_rollouts", "Tenants whose pods the operator is replacing", rolling)
            yield GaugeMetricFamily("outbox_operator_queued_rollouts", "Tenants whose pods wait for that", queued)
            yield from self._tenants()

    def _writes(self) -> Metric:
        writes = CounterMetricFamily("outbox_operator_writes", "Objects that were applied", labels=["kind"])
        for kind, number in self._applied.items():
            writes.add_metric([kind], number)
        return writes

    def _tenants(self) -> Iterator[Metric]:
        ready = GaugeMetricFamily("outbox_tenant_ready", "1 if events can flow", labels=OF_A_TENANT)
        degraded = GaugeMetricFamily("outbox_tenant_degraded", "1 if somebody has to look", labels=OF_A_TENANT)
        families = {"Ready": ready, "Degraded": degraded}
        for tenant in self._cache.each(OUTBOX_TENANT, _Tenant):
            for condition in tenant.status.conditions:
                if family := families.get(condition.type):
                    labels = [tenant.metadata.namespace, tenant.metadata.name, tenant.spec.tenant_id, condition.reason]
                    family.add_metric(labels, condition.status == "True")
        yield from families.values()
