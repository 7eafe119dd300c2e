"""The operator against the real API server: all that is needed, nothing without need, and no rights beyond that."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import ApplyTenant, Configure
from tests.e2e.kubectl import Kubectl, Refused
from tests.e2e.leader import another_leads, has_looked_at_all, replicas, said_of
from tests.e2e.tenants import TENANT_LABEL, Tenant
from tests.support.waiting import eventually

CHILDREN = ("deployments", "serviceaccounts", "roles", "rolebindings")


def versions(tenant: Tenant) -> dict[str, str]:
    """The resource version of an OutboxTenant and of each of its children: a write changes it."""
    objects = [tenant.kubectl.get("obt", tenant.name)]
    for kind in CHILDREN:
        objects += tenant.kubectl.items(kind, f"{TENANT_LABEL}={tenant.name}")
    assert len(objects) == 1 + len(CHILDREN)
    return {o["kind"]: o["metadata"]["resourceVersion"] for o in objects}


def is_settled(tenant: Tenant) -> None:
    """Waits until the operator has said all that there is to say about a paused tenant."""
    tenant.is_not_ready("Paused")
    tenant.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "Stable")


def can(kubectl: Kubectl, account: str, *action: str) -> bool:
    """Whether a service account may do something in this namespace."""
    namespace, _, name = account.partition("/")
    try:
        return kubectl("auth", "can-i", *action, f"--as=system:serviceaccount:{namespace}:{name}").strip() == "yes"
    except Refused:
        return False


async def test_a_restart_writes_nothing(apply_tenant: ApplyTenant, operator: Kubectl) -> None:
    paused, running = apply_tenant(state="Paused"), apply_tenant()
    is_settled(paused)
    running.is_ready()
    running.is_rolled_out()
    before, pods, old = versions(paused), running.pod_ids(), replicas(operator)
    operator("rollout", "restart", "deployment/outbox-operator")
    operator("rollout", "status", "deployment/outbox-operator", "--timeout=90s")
    await another_leads(operator, old)
    await has_looked_at_all(operator)
    # A write that changes nothing leaves the version as it is, but not the log.
    assert said_of(operator, paused, running) == []
    assert versions(paused) == before
    assert running.pod_ids() == pods


def test_kopf_leaves_no_trace(apply_tenant: ApplyTenant) -> None:
    tenant = apply_tenant(state="Paused")
    is_settled(tenant)
    metadata = tenant.kubectl.get("obt", tenant.name)["metadata"]
    assert "finalizers" not in metadata
    assert metadata["annotations"].keys() == {"kubectl.kubernetes.io/last-applied-configuration"}


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_deleted_child_comes_back(apply_tenant: ApplyTenant, kind: str) -> None:
    tenant = apply_tenant(state="Paused")
    is_settled(tenant)
    child = f"{tenant.name}-projector"
    uid = tenant.kubectl.get(kind, child)["metadata"]["uid"]
    tenant.kubectl("delete", kind, child, "--wait=true")
    tenant.kubectl.wait(f"{kind}/{child}", "create")
    assert tenant.kubectl.get(kind, child)["metadata"]["uid"] != uid


def test_an_edited_child_is_repaired(apply_tenant: ApplyTenant) -> None:
    tenant = apply_tenant(state="Paused")
    is_settled(tenant)
    deployment = f"deployment/{tenant.name}-projector"
    tenant.kubectl("set", "env", deployment, "OUTBOX_TENANT_ID=somebody-else")
    tenant.kubectl.wait(
        deployment,
        f'jsonpath={{.spec.template.spec.containers[0].env[?(@.name=="OUTBOX_TENANT_ID")].value}}={tenant.name}',
    )


def test_an_edit_that_excludes_a_field_of_ours_is_repaired(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    """A variable with both `value` and `valueFrom`, which an apply of ours makes of it, is refused by the server."""
    tenant = apply_tenant(state="Paused")
    is_settled(tenant)
    kubectl("create", "configmap", f"{tenant.name}-settings", "--from-literal=OUTBOX_TENANT_ID=somebody-else")
    deployment = f"deployment/{tenant.name}-projector"
    kubectl("set", "env", deployment, f"--from=configmap/{tenant.name}-settings")
    kubectl.wait(
        deployment,
        f'jsonpath={{.spec.template.spec.containers[0].env[?(@.name=="OUTBOX_TENANT_ID")].value}}={tenant.name}',
    )
    is_settled(tenant)
    found = json.loads(kubectl("get", deployment, "-o", "json", "--show-managed-fields"))
    owners = [(owner["manager"], owner["operation"]) for owner in found["metadata"]["managedFields"]]
    assert [operation for manager, operation in owners if manager == "outbox-operator"] == ["Apply"]


def test_somebody_elses_object_is_left_alone(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    tenant = apply_tenant(state="Paused")
    is_settled(tenant)
    kubectl("create", "serviceaccount", "taken-projector")
    kubectl("patch", "serviceaccount", "taken-projector", "-p", '{"automountServiceAccountToken": true}')
    manifest = kubectl.get("obt", tenant.name)
    spec = {**manifest["spec"], "state": "Running", "tenantId": "taken"}
    kubectl.apply({**manifest, "metadata": {"name": "taken"}, "spec": spec})
    message = Tenant(kubectl, "taken", "").is_not_ready("ApplyFailed")
    assert "ServiceAccount taken-projector exists and belongs to somebody else" in message
    assert kubectl.get("serviceaccount", "taken-projector")["automountServiceAccountToken"] is True


def test_an_image_that_does_not_exist_does_not_stop_what_runs(apply_tenant: ApplyTenant) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"image": "localhost/nothing:1"}})
    tenant.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "RollingOut")
    assert tenant.condition("Ready")["status"] == "True"
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"image": None}})
    tenant.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "Stable")
    tenant.is_ready()


def test_a_projector_may_report_on_its_own_tenant_only(apply_tenant: ApplyTenant) -> None:
    tenant = apply_tenant(state="Paused")
    is_settled(tenant)
    account = f"{tenant.kubectl.namespace}/{tenant.name}-projector"
    assert can(tenant.kubectl, account, "patch", f"outboxtenants/{tenant.name}", "--subresource=status")
    for denied in (
        ("patch", "outboxtenants/other", "--subresource=status"),
        ("patch", f"outboxtenants/{tenant.name}"),
        ("get", f"outboxtenants/{tenant.name}"),
        ("get", f"secrets/{tenant.name}"),
        ("list", "pods"),
    ):
        assert not can(tenant.kubectl, account, *denied), denied


def test_the_operator_has_no_rights_that_it_does_not_use(kubectl: Kubectl, operator: Kubectl) -> None:
    account = f"{operator.namespace}/outbox-operator"
    assert can(kubectl, account, "patch", "deployments")
    for denied in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods"),
        ("delete", "deployments"),
        ("update", "outboxtenants"),
        ("patch", "outboxtenants"),
        ("escalate", "roles"),
        ("bind", "roles"),
    ):
        assert not can(kubectl, account, *denied), denied


def progressing(tenant: Tenant) -> str:
    return str(tenant.condition("Progressing")["reason"])


async def test_a_projector_image_that_does_not_start_stops_at_so_many_tenants(
    apply_tenant: ApplyTenant, configure: Configure
) -> None:
    tenants = [apply_tenant(), apply_tenant()]
    for tenant in tenants:
        tenant.is_ready()

    async def held_back() -> bool:
        return sorted(progressing(tenant) for tenant in tenants) == ["RollingOut", "RolloutQueued"]

    configure(projector_image="localhost/nothing:1", max_concurrent_rollouts="1")
    await eventually(held_back, within=60)
    assert [tenant.condition("Ready")["status"] for tenant in tenants] == ["True", "True"]
    configure()
    for tenant in tenants:
        tenant.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "Stable")
        assert tenant.restarts() == 0


async def test_what_changes_is_told_as_an_event(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    tenant = apply_tenant()
    tenant.is_ready()

    async def told() -> bool:
        events = [e for e in kubectl.items("events") if e["involvedObject"]["name"] == tenant.name]
        return [(e["type"], e["reason"]) for e in events] == [("Normal", "Delivering")]

    await eventually(told, within=10)
    assert "The projector reaches database and broker" in kubectl("describe", "obt", tenant.name)
