"""Autoscalers on the scale subresource: a real HorizontalPodAutoscaler, and what KEDA writes itself besides."""

from __future__ import annotations

from typing import Any

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.tenants import API_VERSION, Tenant, outbox_tenant


def autoscaler(tenant: Tenant, *, least: int) -> dict[str, Any]:
    """It brings a tenant to `least` pods whatever its metric says, also without one."""
    target = {"apiVersion": API_VERSION, "kind": "OutboxTenant", "name": tenant.name}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": tenant.name},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": least,
            "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": cpu}],
        },
    }


def test_a_horizontal_pod_autoscaler_has_the_say(kubectl: Kubectl, apply_tenant: ApplyTenant) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    kubectl.apply(autoscaler(tenant, least=2))
    tenant.shows("{.status.readyReplicas}", 2)
    tenant.is_rolled_out()

    # Whoever applies the tenant again without spec.replicas leaves it as the autoscaler wants it.
    spec = kubectl.get("obt", tenant.name)["spec"]
    applied = {name: spec[name] for name in ("tenantId", "database", "pulsar", "polling")}
    kubectl.apply(outbox_tenant(tenant.name, **applied, delivery={"batchSize": 7}))
    tenant.shows("{.status.observedGeneration}", kubectl.get("obt", tenant.name)["metadata"]["generation"])
    assert kubectl.get("deployment", f"{tenant.name}-projector")["spec"]["replicas"] == 2


def test_keda_puts_to_sleep_and_wakes_up(kubectl: Kubectl, apply_tenant: ApplyTenant) -> None:
    """It writes 0 and 1 into the scale subresource by itself; from 1 on its HorizontalPodAutoscaler does."""
    tenant = apply_tenant()
    tenant.is_ready()
    scale = f"/apis/{API_VERSION}/namespaces/{kubectl.namespace}/outboxtenants/{tenant.name}/scale"
    for replicas in (0, 1):
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": tenant.name, "namespace": kubectl.namespace},
            "spec": {"replicas": replicas},
        }
        kubectl.replace_raw(scale, body)
        if replicas == 0:
            tenant.is_not_ready("ScaledToZero")
        else:
            tenant.is_ready()
