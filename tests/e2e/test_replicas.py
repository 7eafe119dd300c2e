"""Two replicas of the operator: one acts, the other takes over, and no projector notices."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.tenants import Tenant
from tests.support.waiting import eventually

LEASE = "outbox-operator"
OPERATOR = "app.kubernetes.io/name=outbox-operator"


def leader(operator: Kubectl) -> str:
    """The pod that holds the Lease; empty when nobody does."""
    holder: str = operator.get("lease", LEASE)["spec"]["holderIdentity"]
    return holder.partition("_")[0]


async def another_leads(operator: Kubectl, than: str, *, within: float) -> None:
    async def followed() -> bool:
        return operator.get("lease", LEASE)["spec"]["holderIdentity"] not in ("", than)

    await eventually(followed, within=within)


def process_of(pod: str) -> int:
    """The process id of an operator, by the host name that its pod gave it."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            found = f"HOSTNAME={pod}".encode() in environ.read_bytes().split(b"\0")
            command = environ.with_name("cmdline").read_bytes()
        except OSError:
            continue  # It has ended meanwhile.
        if found and b"outbox-operator" in command:
            return int(environ.parent.name)
    raise AssertionError(f"no process of {pod} is seen from here")


async def still_works(tenant: Tenant) -> None:
    """A child that is deleted comes back: somebody acts."""
    child = f"{tenant.name}-projector"
    tenant.kubectl("delete", "role", child)
    tenant.kubectl.wait(f"role/{child}", "create")


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
    await still_works(tenant)


async def test_after_a_kill_the_lease_runs_out(operator: Kubectl, tenant: Tenant) -> None:
    holder = operator.get("lease", LEASE)["spec"]["holderIdentity"]
    os.kill(process_of(leader(operator)), signal.SIGKILL)
    await another_leads(operator, holder, within=20)
    await still_works(tenant)


async def test_both_replicas_go_and_the_projectors_stay(operator: Kubectl, tenant: Tenant) -> None:
    pods = [pod["metadata"]["uid"] for pod in tenant.pods()]
    operator("delete", "pods", "-l", OPERATOR, "--wait=false")
    await still_works(tenant)
    tenant.is_ready()
    assert [pod["metadata"]["uid"] for pod in tenant.pods()] == pods
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
