"""Two replicas of the operator: one acts, the other takes over, and no projector notices."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.leader import LEASE, leader, process_of
from tests.e2e.tenants import Tenant
from tests.support.waiting import eventually

OPERATOR = "app.kubernetes.io/name=outbox-operator"


async def another_leads(operator: Kubectl, than: str, *, within: float) -> None:
    async def followed() -> bool:
        return operator.get("lease", LEASE)["spec"]["holderIdentity"] not in ("", than)

    await eventually(followed, within=within)


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
    holder = operator.get("lease", LEASE)["spec"]["holderIdentity"]
    operator("delete", "pod", leader(operator), "--wait=false")
    await another_leads(operator, holder, within=5)
    tenant.is_looked_after()


async def test_after_a_kill_the_lease_runs_out(operator: Kubectl, tenant: Tenant) -> None:
    holder = operator.get("lease", LEASE)["spec"]["holderIdentity"]
    os.kill(process_of(leader(operator)), signal.SIGKILL)
    await another_leads(operator, holder, within=20)
    tenant.is_looked_after()


async def test_both_replicas_go_and_the_projectors_stay(operator: Kubectl, tenant: Tenant) -> None:
    pods = tenant.pod_ids()
    operator("delete", "pods", "-l", OPERATOR, "--wait=false")
    tenant.is_looked_after()
    tenant.is_ready()
    assert tenant.pod_ids() == pods
    assert tenant.restarts() == 0


async def test_a_rollout_is_finished_by_the_next_leader(operator: Kubectl, tenant: Tenant) -> None:
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"delivery": {"batchSize": 7}, "replicas": 2}})
    operator("delete", "pod", leader(operator), "--wait=false")
    tenant.shows("{.status.readyReplicas}", 2)
    tenant.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "Stable")
    staying = [pod for pod in tenant.pods() if "deletionTimestamp" not in pod["metadata"]]
    assert len(staying) == 2
    for pod in staying:
        assert {"name": "OUTBOX_BATCH_SIZE", "value": "7"} in pod["spec"]["containers"][0]["env"]
