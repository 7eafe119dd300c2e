"""Failed events, from the cluster's side: asked for by kubectl patch, answered in the status, and no pod restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl, Refused, run
from tests.e2e.tenants import TENANT_LABEL, Tenant, outbox_tenant
from tests.support.rows import Rows
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]
FAILED = {"status": "ERR", "retry_cnt": 5, "last_error": "refused: Schema mismatch"}


def ask(tenant: Tenant, action: str, request_id: str, **filters: str) -> None:
    """As the runbook says: null first, so that nothing of an older request's filter is left."""
    tenant.kubectl.patch("obt", tenant.name, {"spec": {action: None}})
    request: dict[str, Any] = {"requestId": request_id, **({"filter": filters} if filters else {})}
    tenant.kubectl.patch("obt", tenant.name, {"spec": {action: request}})


def answered(tenant: Tenant, action: str, request_id: str) -> dict[str, Any]:
    """Waits until the request is completed, and returns what the status says of it."""
    tenant.shows(f"{{.status.{action}.requestId}}", request_id)
    tenant.shows(f"{{.status.{action}.state}}", "Completed")
    said: dict[str, Any] = tenant.kubectl.get("obt", tenant.name)["status"][action]
    return said


async def test_requeue_and_discard(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant(replicas=2)
    rows = Rows(sessions, tenant.name)
    for kind in ("orders.Placed", "orders.Placed", "orders.Paid", "orders.Lost"):
        await rows.insert(**FAILED, type=kind)
    tenant.is_ready()
    tenant.shows("{.status.projector.errors}", 4)
    pods = {pod["metadata"]["uid"] for pod in tenant.pods()}

    ask(tenant, "requeue", "placed", type="orders.Placed")
    assert answered(tenant, "requeue", "placed")["count"] == 2
    ask(tenant, "requeue", "others", type="orders.Paid")
    assert answered(tenant, "requeue", "others")["message"] == "1 event requeued"
    ask(tenant, "discard", "lost", errorContains="schema")
    assert answered(tenant, "discard", "lost")["count"] == 1

    async def all_sent() -> bool:
        return await rows.statuses() == ["SENT"] * 3

    await eventually(all_sent, within=60)
    assert all("requeued_at" in row.headers for row in await rows.all())
    tenant.shows("{.status.projector.errors}", 0)
    # The answers of both pods, and the reports that follow, left the outcome as it was.
    assert answered(tenant, "requeue", "others")["count"] == 1
    assert {pod["metadata"]["uid"] for pod in tenant.pods()} == pods
    assert tenant.restarts() == 0
    assert "requests not seen" not in tenant.logs()
    shown_id, *_ = tenant.row()
    assert shown_id == tenant.name

    # Without failed events the next report brings the answer, and a request id that has run does not run again.
    await rows.insert(**FAILED)
    ask(tenant, "requeue", "placed")
    assert answered(tenant, "requeue", "placed")["count"] == 2
    assert await rows.count("ERR") == 1


async def test_a_request_runs_once_although_the_pod_is_killed(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant()
    rows = Rows(sessions, tenant.name)
    # Nothing can read these, so they fail again at once, for ever.
    for _ in range(20):
        await rows.insert(**FAILED, headers=["no", "object"])
    tenant.is_ready()
    ask(tenant, "requeue", "one")

    async def requeued() -> bool:
        return "Schema mismatch" not in {row.last_error for row in await rows.all()} - {None}

    await eventually(requeued, within=60)
    tenant.kubectl("delete", "pods", "-l", f"{TENANT_LABEL}={tenant.name}", "--grace-period=0", "--force")
    assert answered(tenant, "requeue", "one")["count"] == 20


@pytest.mark.parametrize(
    ("action", "request_", "says"),
    [
        ("requeue", {}, "spec.requeue.requestId: Required value"),
        ("requeue", {"requestId": ""}, "spec.requeue.requestId"),
        ("requeue", {"requestId": "x" * 64}, "spec.requeue.requestId"),
        ("requeue", {"requestId": "1", "filter": {"typ": "a"}}, "unknown field"),
        ("requeue", {"requestId": "1", "filter": {"type": ""}}, "spec.requeue.filter.type"),
        ("requeue", {"requestId": "1", "filter": {"errorContains": "\0"}}, "spec.requeue.filter.errorContains"),
        ("requeue", {"requestId": "1", "filter": {"createdAfter": "yesterday"}}, "spec.requeue.filter.createdAfter"),
        (
            "requeue",
            {
                "requestId": "1",
                "filter": {"createdAfter": "2026-01-02T00:00:00Z", "createdBefore": "2026-01-02T00:00:00Z"},
            },
            "filter.createdAfter must be before filter.createdBefore",
        ),
        (
            "discard",
            {
                "requestId": "1",
                "filter": {"failedAfter": "2026-01-02T00:00:00Z", "failedBefore": "2026-01-01T00:00:00Z"},
            },
            "filter.failedAfter must be before filter.failedBefore",
        ),
        ("discard", {"requestId": "1"}, "spec.discard.filter: Required value"),
        ("discard", {"requestId": "1", "filter": {}}, "spec.discard.filter"),
    ],
)
def test_what_makes_no_sense_is_refused(kubectl: Kubectl, action: str, request_: dict[str, Any], says: str) -> None:
    with pytest.raises(Refused) as refused:
        kubectl.apply(_paused(**{action: request_}))
    assert says in str(refused.value)


@pytest.mark.parametrize("action", ["requeue", "discard"])
def test_another_filter_needs_another_request_id(kubectl: Kubectl, action: str) -> None:
    kubectl.apply(_paused(**{action: {"requestId": "1", "filter": {"type": "a"}}}))
    with pytest.raises(Refused, match=f"{action}.requestId runs once, so another filter needs another requestId"):
        kubectl.patch("obt", "acme", {"spec": {action: {"filter": {"type": "b"}}}})
    kubectl.patch("obt", "acme", {"spec": {action: {"requestId": "2", "filter": {"type": "b"}}}})


def test_the_lines_of_the_runbook_do_what_they_say(kubectl: Kubectl) -> None:
    """The requests of a tenant that is paused, so that they are seen as they were asked."""
    kubectl.apply(_paused())
    page = Path("docs/runbook.md").read_text().partition("## By kubectl")[2]
    asked = []
    for line in (line for line in page.splitlines() if line.startswith("kubectl patch")):
        run("bash", "-c", f"{line} --namespace {kubectl.namespace}")
        asked.append(kubectl.get("obt", "acme")["spec"])

    every, cleared, some, _, discarded = asked
    assert every["requeue"].keys() == {"requestId"}
    assert "requeue" not in cleared
    assert some["requeue"] == {"requestId": "schema-fixed", "filter": {"errorContains": "schema"}}
    assert discarded["discard"] == {"requestId": "no-1", "filter": {"aggregateId": "order-7"}}


def _paused(**spec: Any) -> dict[str, Any]:
    return outbox_tenant(
        "acme",
        tenantId="acme",
        database={"urlSecretRef": {"name": "acme-db"}},
        pulsar={"serviceUrl": "pulsar://broker:6650"},
        state="Paused",
        **spec,
    )
