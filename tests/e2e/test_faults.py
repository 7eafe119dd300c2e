"""What happens to a cluster around the operator: projectors deliver meanwhile, and afterwards all is as it should be.

Some of it is done to processes of the node, so these tests need the cluster to be the sandbox's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from sandbox import paths
from tests.conftest import unique
from tests.e2e.conftest import ApplyTenant, Configure
from tests.e2e.kubectl import WAIT_SECONDS, Kubectl, run
from tests.e2e.leader import leader, process_of
from tests.e2e.tenants import Tenant, secret
from tests.support.roles import Roles
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]

CRD = "outboxtenants.outbox.bento.dev"
NEW_FIELD = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/speed"


async def delivers(rows: Rows) -> None:
    """An event that is written now is sent."""
    await rows.insert()

    async def all_sent() -> bool:
        return set(await rows.statuses()) == {"SENT"}

    await eventually(all_sent, within=WAIT_SECONDS)


async def test_the_api_server_goes_and_comes_back(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    pods = tenant.pod_ids()
    os.kill(int((paths.run() / "pid" / "kube-apiserver").read_text()), signal.SIGKILL)
    try:
        await delivers(Rows(sessions, tenant.name))
    finally:
        # In a process of its own, so that what it starts is none of this one's.
        run(sys.executable, "-c", "from sandbox import kubernetes; kubernetes.start()")
    tenant.is_looked_after()
    tenant.is_ready()
    assert tenant.pod_ids() == pods
    assert tenant.restarts() == 0


def test_a_namespace_goes_with_all_that_is_in_it_and_may_come_back(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    apply_tenant().is_ready()
    namespace = kubectl.get("namespace", kubectl.namespace)
    kubectl.delete("namespace", kubectl.namespace)
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply(namespace | {"metadata": {"name": kubectl.namespace, "labels": labels}, "spec": {}})
    tenant = apply_tenant()
    tenant.is_ready()
    tenant.is_looked_after()


def test_the_definition_is_upgraded_and_taken_back_in_place(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    pods = tenant.pod_ids()

    def change(operation: str, **value: object) -> None:
        patch = [{"op": operation, "path": NEW_FIELD, **value}]
        kubectl("patch", "crd", CRD, "--type=json", "-p", json.dumps(patch))

    change("add", value={"type": "integer", "default": 1, "minimum": 0})
    try:
        tenant.shows("{.spec.speed}", 1)
        newer = apply_tenant(speed=2)
        newer.is_ready()
        tenant.is_looked_after()
    finally:
        change("remove")
    for each in (tenant, newer):
        each.is_looked_after()
        each.is_ready()
    assert tenant.pod_ids() == pods
    assert tenant.restarts() == 0


@pytest.fixture
def another_image() -> Iterator[str]:
    """The projector's image under another name."""
    known = next(
        name for name in run("ctr", "--namespace=k8s.io", "images", "list", "--quiet").split() if "/projector:" in name
    )
    name = f"localhost/{unique('projector')}:1"
    run("ctr", "--namespace=k8s.io", "images", "tag", known, name)
    yield name
    run("ctr", "--namespace=k8s.io", "images", "remove", name)


def images(tenant: Tenant) -> set[str]:
    """With which its pods run, those that are going aside."""
    pods = [pod for pod in tenant.pods() if "deletionTimestamp" not in pod["metadata"]]
    return {container["image"] for pod in pods for container in pod["spec"]["containers"]}


async def test_another_image_reaches_all_who_name_none_though_the_operator_is_killed_meanwhile(
    apply_tenant: ApplyTenant, operator: Kubectl, configure: Configure, another_image: str
) -> None:
    tenants = [apply_tenant() for _ in range(3)]
    tenants[0].is_ready()
    [image] = images(tenants[0])
    own = apply_tenant(image=image)
    for tenant in (*tenants, own):
        tenant.is_ready()
        tenant.is_rolled_out()
    pods = own.pod_ids()
    configure(projector_image=another_image, max_concurrent_rollouts="1")

    async def has_begun() -> bool:
        return any(another_image in images(tenant) for tenant in tenants)

    async def is_done() -> bool:
        return all(images(tenant) == {another_image} for tenant in tenants)

    await eventually(has_begun, within=60)
    os.kill(process_of(leader(operator)), signal.SIGKILL)
    await eventually(is_done, within=180)
    for tenant in tenants:
        tenant.is_rolled_out()
        tenant.is_ready()
    assert own.pod_ids() == pods


async def test_a_secret_is_rotated_while_events_are_delivered(
    apply_tenant: ApplyTenant, kubectl: Kubectl, sessions: Sessions, engine: AsyncEngine, database_url: str
) -> None:
    roles = Roles(engine, database_url)
    before, after = [await roles.create(unique("rotated"), "SUPERUSER") for _ in range(2)]
    try:
        tenant = apply_tenant(url=roles.url(before))
        rows = Rows(sessions, tenant.name)
        tenant.is_ready()
        await delivers(rows)
        kubectl.apply(secret(tenant.name, roles.url(after)))
        async with sessions() as session:
            await session.execute(text(f'ALTER ROLE "{before}" NOLOGIN'))
            ended = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :role")
            await session.execute(ended, {"role": before})
            await session.commit()
        await delivers(rows)
        tenant.is_ready()
        assert tenant.restarts() == 0
        kubectl.delete("obt", tenant.name)
        kubectl("wait", "pods", "-l", tenant.selector, "--for=delete", f"--timeout={WAIT_SECONDS}s")
    finally:
        await roles.close()
