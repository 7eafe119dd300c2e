"""From the application's commit to a real consumer, through pods that the operator runs."""

from __future__ import annotations

import asyncio

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from examples.orders.service import Shop
from examples.orders.storage import create_tables
from tests.conftest import unique
from tests.e2e.conftest import ApplyTenant
from tests.e2e.tenants import CHILDREN, Tenant, all_sent
from tests.support.pulsar_topics import Topics
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]


async def test_each_tenant_receives_exactly_the_events_it_wrote(
    apply_tenant: ApplyTenant, sessions: Sessions, topics: Topics
) -> None:
    tenants = [apply_tenant(), apply_tenant()]
    async with sessions() as session:
        await create_tables(session.bind)
    for tenant in tenants:
        shop = Shop(sessions, tenant.name)
        for _ in range(50):
            order_id = unique("order")
            await shop.place_order(order_id=order_id, customer="ada", total_cents=100)
            await shop.pay_order(order_id)
    for tenant in tenants:
        tenant.is_ready()
        written = [(str(row.id), row.aggregate_id, row.type) for row in await Rows(sessions, tenant.name).all()]
        received = await topics.exactly(100, tenant.topic)
        assert [(m.event_id, m.key, m.properties["type"]) for m in received] == written
        assert {m.properties["tenant_id"] for m in received} == {tenant.name}


async def test_a_killed_projector_pod_loses_nothing(
    apply_tenant: ApplyTenant, sessions: Sessions, topics: Topics
) -> None:
    tenant = apply_tenant(delivery={"batchSize": 10})
    rows = Rows(sessions, tenant.name)
    written = await rows.insert_many(2000, aggregates=20)
    for kills in range(3):
        at_least = 1 + kills * 500

        async def has_begun(at_least: int = at_least) -> bool:
            return await rows.count("SENT") >= at_least

        await eventually(has_begun, within=60)
        for pod in tenant.pods():
            tenant.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")

    async def all_sent() -> bool:
        return await rows.count("SENT") == len(written)

    await eventually(all_sent, within=90)
    received = await asyncio.to_thread(topics.distinct, tenant.topic)
    assert received == {str(event_id) for event_id in written}


async def test_scale_by_kubectl(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    tenant.kubectl("scale", f"obt/{tenant.name}", "--replicas=2")
    tenant.shows("{.status.readyReplicas}", 2)
    assert len(tenant.pods()) == 2
    tenant.kubectl("scale", f"obt/{tenant.name}", "--replicas=1")
    tenant.shows("{.status.replicas}", 1)
    tenant.is_ready()


async def test_a_pause_ends_the_pods_and_keeps_the_rest(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant(replicas=2)
    tenant.is_ready()
    children = tenant.children()
    assert len(children) == len(CHILDREN)
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"state": "Paused"}})
    tenant.is_not_ready("Paused")
    tenant.is_without_pods()
    rows = Rows(sessions, tenant.name)
    await rows.insert_many(3)
    assert tenant.children() == children
    assert await rows.statuses() == ["NEW"] * 3
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"state": "Running"}})
    tenant.is_ready()
    await all_sent(rows)


async def test_deleting_the_tenant_leaves_its_rows_and_another_goes_on_with_them(
    apply_tenant: ApplyTenant, sessions: Sessions, topics: Topics
) -> None:
    tenant = apply_tenant(replicas=2)
    rows = Rows(sessions, tenant.name)
    await rows.insert_many(3)
    await all_sent(rows)
    assert len(tenant.children()) == len(CHILDREN)
    manifest = tenant.kubectl.get("obt", tenant.name)
    tenant.kubectl.delete("obt", tenant.name)

    async def all_gone() -> bool:
        return not tenant.children()

    await eventually(all_gone, within=60)
    tenant.is_without_pods()
    await rows.insert_many(3)
    assert await rows.statuses() == ["SENT"] * 3 + ["NEW"] * 3
    another = Tenant(tenant.kubectl, f"{tenant.name}-again", tenant.topic)
    another.kubectl.apply({**manifest, "metadata": {"name": another.name}, "status": {}})
    another.is_ready()
    await all_sent(rows)
    received = await topics.exactly(6, tenant.topic)
    assert [message.event_id for message in received] == [str(row.id) for row in await rows.all()]
