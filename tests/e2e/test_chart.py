"""The chart: what it refuses, what it leaves out, and that neither an upgrade of the operator nor its end is felt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
import yaml
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from sandbox import helm
from tests.e2e.conftest import OPERATOR_NAMESPACE, AnotherImage, ApplyTenant
from tests.e2e.kubectl import Kubectl, Refused, run
from tests.e2e.leader import another_leads, has_looked_at_all, replicas, said_of
from tests.e2e.tenants import delivers
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]

CHART = "charts/outbox-operator"
RELEASE = ("outbox", "--namespace", OPERATOR_NAMESPACE)
CRD = "CustomResourceDefinition"
CLUSTER_RIGHTS = {"ClusterRole", "ClusterRoleBinding"}


def kinds(values: str = "") -> set[str]:
    """Of which kinds a release with these values has objects."""
    rendered = run("helm", "template", "own", CHART, "--set", values)
    return {manifest["kind"] for manifest in yaml.safe_load_all(rendered) if manifest}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("replica=1", "additional properties 'replica' not allowed"),
        ("log.levle=info", "additional properties 'levle' not allowed"),
        ("watchOwnNamespace=true,watchNamespaces={acme}", "watchNamespaces and watchOwnNamespace exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(values: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        kinds(values)


def test_the_definition_is_left_out_where_somebody_else_has_it() -> None:
    assert CRD in kinds()
    assert CRD not in kinds("crd.install=false")


def test_names_of_digits_stay_names() -> None:
    """Bare, YAML takes them for numbers, which the API server refuses."""
    values = "watchNamespaces={123456},image.pullSecrets={123456},operatorImage=123456,priorityClassName=123456"
    rendered = run("helm", "template", "123456", CHART, "--namespace", "123456", "--set-string", values)
    assert '"123456"' in rendered
    assert re.findall(r"^.* 123456$", rendered, re.MULTILINE) == []


@pytest.mark.parametrize("values", ["watchOwnNamespace=true", "watchNamespaces={acme}"])
def test_for_some_namespaces_there_is_no_cluster_role(values: str) -> None:
    assert kinds() >= CLUSTER_RIGHTS
    assert not kinds(values) & CLUSTER_RIGHTS


def test_a_second_release_has_to_leave_the_definition_to_the_first(kubectl: Kubectl) -> None:
    values = ("--set", "watchOwnNamespace=true,replicas=0")
    with pytest.raises(Refused, match=f"{CRD}.* exists and cannot be imported into the current release"):
        run("helm", "install", "own", CHART, "--namespace", kubectl.namespace, *values)


@pytest.fixture
def upgrade() -> Iterator[Callable[[str], None]]:
    """Upgrades the release; afterwards it is as it was."""
    ready = ("--wait", "--timeout=90s")

    def upgrade(values: str) -> None:
        run("helm", "upgrade", *RELEASE, CHART, "--reset-then-reuse-values", "--set", values, *ready)

    yield upgrade
    run("helm", "rollback", *RELEASE, *ready)


async def test_an_upgrade_of_the_operator_alone_restarts_no_projector(
    apply_tenant: ApplyTenant, operator: Kubectl, another_image: AnotherImage, upgrade: Callable[[str], None]
) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    tenant.is_rolled_out()
    [pod] = tenant.pods()
    image, old = pod["spec"]["containers"][0]["image"], replicas(operator)
    # But for its name the projectors' image would follow the tag.
    upgrade(f"image.tag=next,operatorImage={another_image('operator')},projectorImage={image}")
    await another_leads(operator, old)
    await has_looked_at_all(operator)
    assert said_of(operator, tenant) == []
    assert tenant.pod_ids() == {pod["metadata"]["uid"]}
    assert tenant.restarts() == 0


async def test_an_uninstalled_operator_leaves_the_definition_and_the_projectors(
    apply_tenant: ApplyTenant, kubectl: Kubectl, operator: Kubectl, sessions: Sessions
) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    pods, rows = tenant.pod_ids(), Rows(sessions, tenant.name)
    run("helm", "uninstall", *RELEASE, "--wait")
    try:
        assert operator.items("deployments") == []
        assert "outboxtenants.outbox.bento.dev" in kubectl("get", "crd", "-o", "name")
        await delivers(rows)
    finally:
        helm.install("outbox", CHART, namespace=OPERATOR_NAMESPACE)
    tenant.is_looked_after()
    tenant.is_ready()
    assert tenant.pod_ids() == pods
