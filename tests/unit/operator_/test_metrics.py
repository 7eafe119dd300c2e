"""What the operator tells Prometheus, read back by Prometheus's own parser."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outbox_operator.cache import Cache
from outbox_operator.errors import Unreachable
from outbox_operator.keys import DEPLOYMENT, OUTBOX_TENANT, Key
from outbox_operator.metrics import Metrics
from outbox_operator.rollouts import Rollouts
from outbox_operator.testing import ManualClock
from outbox_operator.workqueue import WorkQueue
from tests.unit.operator_.conftest import build_tenant

WELL = {"Ready": ("True", "Delivering"), "Progressing": ("False", "Stable"), "Degraded": ("False", "AsExpected")}
BROKEN = {"Ready": ("False", "BrokerUnreachable"), "Degraded": ("True", "BrokerUnreachable")}


def conditions(said: dict[str, tuple[str, str]]) -> list[dict[str, str]]:
    return [{"type": kind, "status": status, "reason": reason} for kind, (status, reason) in said.items()]


@dataclass
class Parts:
    cache: Cache = field(default_factory=Cache)
    writes: Counter[str] = field(default_factory=Counter)
    acts: bool = True

    def __post_init__(self) -> None:
        self.rollouts = Rollouts(1, wake=lambda _: None)
        self.queue = WorkQueue[Key](self.look, workers=1, clock=ManualClock(), random=lambda: 0.5)
        self.metrics = Metrics(
            cache=self.cache,
            queue=self.queue,
            rollouts=self.rollouts,
            writes=self.writes,
            acts=lambda: self.acts,
        )

    async def look(self, key: Key) -> None:
        if key.name == "broken":
            raise Unreachable("the API server is away")

    def add(self, name: str, **fields: Any) -> None:
        self.cache.put(OUTBOX_TENANT, build_tenant(name=name, tenantId=f"{name}-eu") | fields)

    def scrape(self) -> dict[str, Any]:
        """Values by the names of the metrics; those with labels by the labels' values, in the order of their names."""
        found: dict[str, Any] = {}
        for family in text_string_to_metric_families(self.metrics.exposition().decode()):
            for sample in family.samples:
                if sample.labels:
                    found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
                else:
                    found[sample.name] = sample.value
        return found


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_each_tenant_says_whether_it_is_ready_and_whether_somebody_has_to_look(parts: Parts) -> None:
    parts.add("acme", status={"conditions": conditions(WELL)})
    parts.add("globex", status={"conditions": conditions(BROKEN)})
    found = parts.scrape()
    broken = ("globex", "shop", "BrokerUnreachable", "globex-eu")
    assert found["outbox_tenant_ready"] == {("acme", "shop", "Delivering", "acme-eu"): 1, broken: 0}
    assert found["outbox_tenant_degraded"] == {("acme", "shop", "AsExpected", "acme-eu"): 0, broken: 1}


def test_a_tenant_without_a_status_says_nothing_yet(parts: Parts) -> None:
    parts.add("acme")
    parts.cache.put(DEPLOYMENT, build_tenant(name="acme-projector"))
    assert "outbox_tenant_ready" not in parts.scrape()


def test_a_tenant_that_is_gone_is_not_told_of(parts: Parts) -> None:
    parts.add("acme", status={"conditions": conditions(WELL)})
    parts.cache.forget(OUTBOX_TENANT, build_tenant(name="acme"))
    assert "outbox_tenant_ready" not in parts.scrape()


def test_a_standby_tells_of_no_tenant(parts: Parts) -> None:
    """Or each would be counted as often as there are replicas."""
    parts.add("acme", status={"conditions": conditions(WELL)})
    parts.acts = False
    found = parts.scrape()
    assert found == {
        "outbox_operator_acting": 0,
        "outbox_operator_looks_total": 0,
        "outbox_operator_failed_looks_total": 0,
    }


async def test_looks_are_counted_by_what_became_of_them(parts: Parts) -> None:
    for name in ("acme", "broken", "globex"):
        parts.queue.add(Key("shop", name))
    assert parts.scrape()["outbox_operator_waiting_tenants"] == 3
    running = asyncio.create_task(parts.queue.run())
    await parts.queue.caught_up()
    parts.queue.stop()
    await running
    found = parts.scrape()
    assert found["outbox_operator_waiting_tenants"] == 0
    assert (found["outbox_operator_looks_total"], found["outbox_operator_failed_looks_total"]) == (2, 1)


def test_rollouts_are_those_under_way_and_those_that_wait(parts: Parts) -> None:
    for name in "abc":
        parts.rollouts.begin(Key("shop", name))
    found = parts.scrape()
    assert (found["outbox_operator_rollouts"], found["outbox_operator_queued_rollouts"]) == (1, 2)


def test_writes_are_counted_by_kind(parts: Parts) -> None:
    parts.writes.update(["Deployment", "OutboxTenant", "OutboxTenant"])
    assert parts.scrape()["outbox_operator_writes_total"] == {("Deployment",): 1, ("OutboxTenant",): 2}
