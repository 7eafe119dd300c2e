"""An operator that serves its own namespace, or a list of them, and nobody in others, with the rights of a Role."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl, run
from tests.e2e.tenants import outbox_tenant


@pytest.fixture
def nobody_serves_all(operator: Kubectl) -> Iterator[None]:
    """The operator of the whole cluster is away for the length of a test."""
    operator("scale", "deployment/outbox-operator", "--replicas=0")
    operator("wait", "pods", "-l", "app.kubernetes.io/instance=outbox", "--for=delete", "--timeout=60s")
    yield
    operator("scale", "deployment/outbox-operator", "--replicas=2")
    operator("rollout", "status", "deployment/outbox-operator", "--timeout=90s")


@pytest.fixture
def install(kubectl: Kubectl) -> Iterator[Callable[..., None]]:
    """Installs an operator for some namespaces beside the test's tenants."""

    def install(setting: str) -> None:
        # A single replica, and no CRD: that is the other release's.
        values = f"{setting},replicas=1,crd.install=false"
        charted = ("charts/outbox-operator", "--set", values, "--wait", "--timeout=90s")
        run("helm", "install", "own", "--namespace", kubectl.namespace, *charted)

    yield install
    run("helm", "uninstall", "own", "--namespace", kubectl.namespace, "--wait")


def foreign_tenant(kubectl: Kubectl, name: str) -> None:
    database, pulsar = {"urlSecretRef": {"name": name}}, {"serviceUrl": "pulsar://nowhere:6650"}
    kubectl.apply(outbox_tenant(name, tenantId=name, database=database, pulsar=pulsar))


@pytest.mark.usefixtures("nobody_serves_all")
def test_its_own_namespace(
    kubectl: Kubectl, new_namespace: Callable[[], Kubectl], install: Callable[..., None], apply_tenant: ApplyTenant
) -> None:
    other = new_namespace()
    foreign_tenant(other, "globex")
    install("watchOwnNamespace=true")
    tenant = apply_tenant()
    tenant.is_ready()
    tenant.is_looked_after()
    assert "status" not in other.get("obt", "globex")
    assert other.items("deployments") == []


@pytest.mark.usefixtures("nobody_serves_all")
def test_a_list_of_namespaces(
    kubectl: Kubectl, new_namespace: Callable[[], Kubectl], install: Callable[..., None], apply_tenant: ApplyTenant
) -> None:
    listed, other = new_namespace(), new_namespace()
    for each in (listed, other):
        foreign_tenant(each, "globex")
    install(f"watchNamespaces={{{kubectl.namespace},{listed.namespace}}}")
    tenant = apply_tenant()
    tenant.is_ready()
    listed.wait("deployment/globex-projector", "create")
    assert "status" not in other.get("obt", "globex")
    assert other.items("deployments") == []

    listed("delete", "namespace", listed.namespace)
    tenant.is_looked_after()
