"""Two replicas of the operator: one acts, the other takes over, and no projector notices."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.leader import another_leads, holder, leader, process_of, replicas
from tests.e2e.tenants import Tenant


@pytest.fixture
def tenant(apply_tenant: ApplyTenant) -> Tenant:
    tenant = apply_tenant()
    tenant.is_ready()
    return tenant


@pytest.fixture(autouse=True)
def all_replicas_stand(operator: Kubectl) -> Any:
    yield
    operator("rollout", "status", "deployment/outbox-operator", "--timeout=90s")


async def test_at_sigterm_the_lease_is_given_back(operator: Kubectl, tenant: Tenant) -> None:
    pod = leader(operator)
    operator("delete", "pod", pod, "--wait=false")
    await another_leads(operator, {pod}, within=3)
    tenant.is_looked_after()


async def test_after_a_kill_the_lease_runs_out(operator: Kubectl, tenant: Tenant) -> None:
    killed = holder(operator)
    os.kill(process_of(leader(operator)), signal.SIGKILL)
    # It may be the next process of the same pod.
    await another_leads(operator, {killed}, within=20)
    tenant.is_looked_after()


async def test_both_replicas_go_and_the_projectors_stay(operator: Kubectl, tenant: Tenant) -> None:
    pods, gone = tenant.pod_ids(), replicas(operator)
    operator("delete", "pods", *gone, "--wait=false")
    await another_leads(operator, gone)
    tenant.is_looked_after()
    tenant.is_ready()
    assert tenant.pod_ids() == pods
    assert tenant.restarts() == 0
