"""Two OutboxTenants for the same rows: what the operator can see, it prevents; what it can't, does no harm."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.tenants import Tenant, secret
from tests.support.pulsar_topics import Topics
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]

# As docs/operator.md has it.
WHO_DELIVERS = """
    SELECT split_part(name, '/', 1) AS pod FROM outbox_member
    WHERE tenant_id = :tenant_id AND beat_at > now() - interval '1 minute'
"""


def test_of_two_for_the_same_rows_the_older_delivers(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    older = apply_tenant()
    older.is_ready()
    manifest = kubectl.get("obt", older.name)
    twin = Tenant(kubectl, f"{older.name}-twin", older.topic)
    kubectl.apply({**manifest, "metadata": {"name": twin.name}, "status": {}})
    assert f"OutboxTenant {older.name}, which is older" in twin.is_not_ready("TenantConflict")
    assert twin.pods() == []
    older.is_ready()
    kubectl.delete("obt", older.name)
    twin.is_ready()


async def test_two_in_different_namespaces_share_the_rows_and_can_be_found(
    apply_tenant: ApplyTenant,
    kubectl: Kubectl,
    new_namespace: Callable[[], Kubectl],
    sessions: Sessions,
    topics: Topics,
    database_url: str,
) -> None:
    one = apply_tenant()
    one.is_ready()
    other = Tenant(new_namespace(), one.name, one.topic)
    other.kubectl.apply(secret(other.name, database_url))
    manifest = kubectl.get("obt", one.name)
    other.kubectl.apply({**manifest, "metadata": {"name": other.name}, "status": {}})
    other.is_ready()
    rows = Rows(sessions, one.name)
    written = await rows.insert_many(500, aggregates=10)

    async def all_sent() -> bool:
        return await rows.count("SENT") == len(written)

    await eventually(all_sent, within=60)
    received = await topics.exactly(len(written), one.topic)
    assert sorted(message.event_id for message in received) == sorted(map(str, written))
    async with sessions() as session:
        members = set(await session.scalars(text(WHO_DELIVERS), {"tenant_id": one.name}))
    assert members == {pod["metadata"]["name"] for tenant in (one, other) for pod in tenant.pods()}
    named = kubectl("get", "obt", "--all-namespaces", "--field-selector", f"spec.tenantId={one.name}", "--no-headers")
    assert len(named.splitlines()) == 2
