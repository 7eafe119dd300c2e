"""What happens to a cluster around the operator: projectors deliver meanwhile, and afterwards all is as it should be.

Some of it is done to processes of the node, so these tests need the cluster to be the sandbox's.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import defaultdict

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from sandbox import paths
from tests.conftest import unique
from tests.e2e.conftest import AnotherImage, ApplyTenant, Configure
from tests.e2e.kubectl import Kubectl, run
from tests.e2e.leader import leader, process_of
from tests.e2e.tenants import TENANT_LABEL, delivers, secret
from tests.support.roles import Roles
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]

CRD = "outboxtenants.outbox.bento.dev"
NEW_FIELD = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/speed"


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


def images(kubectl: Kubectl) -> dict[str, set[str]]:
    """The images of each tenant's pods at this moment, without pods that are ending."""
    found: dict[str, set[str]] = defaultdict(set)
    for pod in kubectl.items("pods", TENANT_LABEL):
        if "deletionTimestamp" not in pod["metadata"]:
            found[pod["metadata"]["labels"][TENANT_LABEL]].add(pod["spec"]["containers"][0]["image"])
    return found


async def test_another_image_reaches_all_who_name_none_one_by_one_though_the_operator_is_killed_meanwhile(
    apply_tenant: ApplyTenant, kubectl: Kubectl, operator: Kubectl, configure: Configure, another_image: AnotherImage
) -> None:
    tenants = [apply_tenant() for _ in range(3)]
    tenants[0].is_ready()
    [image] = images(kubectl)[tenants[0].name]
    own = apply_tenant(image=image)
    for tenant in (*tenants, own):
        tenant.is_ready()
        tenant.is_rolled_out()
    pods = own.pod_ids()
    newer = another_image("projector")
    configure(projector_image=newer, max_concurrent_rollouts="1")
    at_once = 0

    def images_now() -> dict[str, set[str]]:
        nonlocal at_once
        now = images(kubectl)
        at_once = max(at_once, sum(len(of_tenant) > 1 for of_tenant in now.values()))
        return now

    async def has_begun() -> bool:
        return any(newer in of_tenant for of_tenant in images_now().values())

    async def is_done() -> bool:
        now = images_now()
        return all(now[tenant.name] == {newer} for tenant in tenants)

    await eventually(has_begun, within=60)
    os.kill(process_of(leader(operator)), signal.SIGKILL)
    await eventually(is_done, within=180)
    for tenant in tenants:
        tenant.is_rolled_out()
        tenant.is_ready()
    assert at_once == 1
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
        tenant.is_without_pods()
    finally:
        await roles.close()
