"""What `kubectl get outboxtenants` shows: LAG and ERR of the real table, and each reason why events cannot flow.

Each trouble at run time must turn Ready to False with its own reason, name the cause without any secret, leave the
pod running and the rows' retries untouched, and be over by itself when the cause is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tests.conftest import unique
from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.tenants import Tenant, all_sent, secret
from tests.support.pulsar_topics import Namespaces
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]
WRONG_PASSWORD = "not-the-password"


def replaced(url: str, **parts: str) -> str:
    """The URL with other `netloc` or `path`."""
    return urlunsplit(urlsplit(url)._replace(**parts))


def with_password(url: str, password: str) -> str:
    split = urlsplit(url)
    return replaced(url, netloc=f"{split.username}:{password}@{split.hostname}:{split.port}")


def with_closed_port(url: str) -> str:
    split = urlsplit(url)
    return replaced(url, netloc=split.netloc.replace(f":{split.port}", ":1"))


async def recovers(tenant: Tenant, rows: Rows) -> None:
    """Ready again, all rows sent, without a restart of the pod and without a retry."""
    tenant.is_ready()
    await all_sent(rows)
    assert {row.retry_cnt for row in await rows.all()} == {0}
    assert tenant.restarts() == 0


async def test_errors_and_lag_are_shown(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant()
    rows = Rows(sessions, tenant.name)
    await rows.insert(headers=["no", "object"])
    await rows.insert()
    tenant.shows("{.status.projector.errors}", 1)
    tenant.shows('{.status.conditions[?(@.type=="EventsFailing")].reason}', "EventsInError")
    tenant.is_ready()
    assert await rows.statuses() == ["ERR", "SENT"]
    [unreadable, _] = await rows.all()
    assert "headers is not a JSON object" in unreadable.last_error
    # Age is a fact of the row: one that was written an hour ago and may not be sent yet is an hour of lag.
    await rows.insert(sql={"created_at": "now() - interval '1 hour'", "available_at": "now() + interval '1 hour'"})
    tenant.shows("{.status.projector.pending}", 1)
    shown_id, ready, reason, pending, lag, errors = tenant.row()
    assert (shown_id, ready, reason, pending, errors) == (tenant.name, "True", "Delivering", "1", "1")
    assert int(lag) >= 3600


async def test_missing_secret(apply_tenant: ApplyTenant, sessions: Sessions, database_url: str) -> None:
    tenant = apply_tenant(url=None)
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    message = tenant.is_not_ready("SecretNotFound")
    assert tenant.name in message
    tenant.kubectl.apply(secret(tenant.name, database_url))
    await recovers(tenant, rows)


async def test_missing_authorities_of_the_database(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    tenant = apply_tenant()
    tenant.is_ready()
    trusted = {"trustedCertificates": {"secretRef": {"name": "not-there"}}}
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"database": {"tls": trusted}}})
    message = tenant.is_not_ready("SecretNotFound")
    assert "it is the key 'ca.crt' of the Secret 'not-there': create it" in message
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"database": {"tls": None}}})
    await recovers(tenant, rows)


async def test_wrong_password(apply_tenant: ApplyTenant, sessions: Sessions, database_url: str) -> None:
    tenant = apply_tenant(url=with_password(database_url, WRONG_PASSWORD))
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    message = tenant.is_not_ready("DatabaseAuthenticationFailed")
    assert WRONG_PASSWORD not in message
    assert WRONG_PASSWORD not in tenant.logs()
    tenant.kubectl.apply(secret(tenant.name, database_url))
    await recovers(tenant, rows)


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (with_closed_port, "DatabaseUnreachable"),
        (lambda url: replaced(url, path="/there-is-no-such-database"), "DatabaseNotFound"),
        (lambda url: replaced(url, scheme="mysql"), "DatabaseUrlInvalid"),
    ],
    ids=["unreachable", "no such database", "no Postgres URL"],
)
async def test_unusable_database(
    apply_tenant: ApplyTenant, sessions: Sessions, database_url: str, spoilt: Callable[[str], str], reason: str
) -> None:
    tenant = apply_tenant(url=spoilt(database_url))
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    tenant.is_not_ready(reason)
    tenant.kubectl.apply(secret(tenant.name, database_url))
    await recovers(tenant, rows)


async def test_missing_table(apply_tenant: ApplyTenant, empty_database_url: str) -> None:
    tenant = apply_tenant(url=empty_database_url)
    message = tenant.is_not_ready("OutboxTableMissing")
    assert "bento-outbox schema apply" in message
    assert tenant.restarts() == 0


async def test_unreachable_broker(apply_tenant: ApplyTenant, sessions: Sessions, pulsar_url: str) -> None:
    tenant = apply_tenant(service_url=with_closed_port(pulsar_url))
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    message = tenant.is_not_ready("BrokerUnreachable")
    assert with_closed_port(pulsar_url) in message
    # It has said why it cannot deliver, so it is ready: an unready pod would say nothing more, and stop a rollout.
    tenant.kubectl.wait(f"deployment/{tenant.name}-projector", "jsonpath={.status.readyReplicas}=1")
    assert tenant.restarts() == 0
    assert {row.retry_cnt for row in await rows.all()} == {0}
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"pulsar": {"serviceUrl": pulsar_url}}})
    await recovers(tenant, rows)


async def test_missing_pulsar_namespace(apply_tenant: ApplyTenant, sessions: Sessions, namespaces: Namespaces) -> None:
    namespace = f"public/{unique('late')}"
    tenant = apply_tenant(topic=f"persistent://{namespace}/events")
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    message = tenant.is_not_ready("PulsarNamespaceNotFound")
    assert namespace in message
    await namespaces.create(namespace)
    await recovers(tenant, rows)


async def test_pods_that_a_quota_forbids(apply_tenant: ApplyTenant, kubectl: Kubectl, sessions: Sessions) -> None:
    kubectl("create", "quota", "none", "--hard=pods=0")
    kubectl.wait("quota/none", "jsonpath={.status.hard.pods}=0")
    tenant = apply_tenant()
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    message = tenant.is_not_ready("PodsNotCreated")
    assert "exceeded quota: none" in message
    kubectl.delete("quota", "none")
    await recovers(tenant, rows)


async def test_a_projector_that_cannot_report(apply_tenant: ApplyTenant, sessions: Sessions) -> None:
    unreachable = {"name": "KUBERNETES_SERVICE_PORT", "value": "1"}
    tenant = apply_tenant(reporting={"intervalSeconds": 5}, pod={"env": [unreachable]})
    rows = Rows(sessions, tenant.name)
    await rows.insert()
    message = tenant.is_not_ready("NotReporting")
    assert "has not reported for 15 seconds" in message
    # Delivering needs no API server.
    assert await rows.statuses() == ["SENT"]
    tenant.kubectl.patch("obt", tenant.name, {"spec": {"pod": {"env": None}}})
    await recovers(tenant, rows)
