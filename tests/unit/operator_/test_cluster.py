"""The client, against a real HTTP server on loopback: what goes over the wire, and what comes back as which error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client
from kubernetes.aio.config import incluster_config

from outbox_operator import errors
from outbox_operator.cluster import KubernetesCluster, credentials, load_configuration
from outbox_operator.keys import DEPLOYMENT, OUTBOX_TENANT

DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
MANIFEST = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "shop", "name": "a"}}


class ApiServer:
    """Answers with what a test has put into `answers`, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], dict[str, str], Any]] = []
        self.answers: list[tuple[int, Any, dict[str, str]]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, request.path, dict(request.query), dict(request.headers), body))
        status, answer, headers = self.answers.pop(0)
        return web.json_response(answer, status=status, headers=headers)

    def will_answer(self, status: int, body: Any, **headers: str) -> None:
        self.answers.append((status, body, headers))


@pytest.fixture
async def server() -> AsyncIterator[tuple[ApiServer, KubernetesCluster]]:
    api = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    async with TestServer(app) as running:
        configuration = client.Configuration(host=f"http://127.0.0.1:{running.port}")
        configuration.api_key["BearerToken"] = "bearer s3cret"
        async with KubernetesCluster(configuration, connections=2) as cluster:
            yield api, cluster


async def test_apply_names_the_manager_and_sends_the_manifest(server: tuple[ApiServer, KubernetesCluster]) -> None:
    api, cluster = server
    api.will_answer(200, {"applied": True})
    assert await cluster.apply(DEPLOYMENT, MANIFEST, force=False) == {"applied": True}
    method, path, query, headers, body = api.requests[0]
    assert (method, path, body) == ("PATCH", f"{DEPLOYMENTS}/a", MANIFEST)
    assert query == {"fieldManager": "outbox-operator", "force": "false"}
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert headers["Authorization"] == "bearer s3cret"


async def test_a_status_goes_to_its_subresource_by_force(server: tuple[ApiServer, KubernetesCluster]) -> None:
    api, cluster = server
    api.will_answer(200, {})
    await cluster.apply_status(MANIFEST)
    _, path, query, _, _ = api.requests[0]
    assert path == "/apis/outbox.bento.dev/v1alpha1/namespaces/shop/outboxtenants/a/status"
    assert query["force"] == "true"


async def test_a_replacement_leaves_nothing_in_the_spec_but_ours_and_us_as_its_owner_once(
    server: tuple[ApiServer, KubernetesCluster],
) -> None:
    api, cluster = server
    kept = [{"manager": "outbox-operator", "operation": "Apply"}, {"manager": "kubelet", "operation": "Update"}]
    twice = {"manager": "outbox-operator", "operation": "Update"}
    api.will_answer(200, {"metadata": {"managedFields": [*kept, twice]}})
    api.will_answer(200, {})
    api.will_answer(200, {"applied": True})
    assert await cluster.replace(DEPLOYMENT, {**MANIFEST, "spec": {"replicas": 1}}) == {"applied": True}
    assert [(headers["Content-Type"], body) for _, _, _, headers, body in api.requests] == [
        ("application/strategic-merge-patch+json", {"spec": {"$patch": "replace", "replicas": 1}}),
        ("application/merge-patch+json", {"metadata": {"managedFields": kept}}),
        ("application/apply-patch+yaml", {**MANIFEST, "spec": {"replicas": 1}}),
    ]
    assert {(method, path) for method, path, _, _, _ in api.requests} == {("PATCH", f"{DEPLOYMENTS}/a")}
    assert [query.get("force") for _, _, query, _, _ in api.requests] == [None, None, "true"]


async def test_a_list_comes_page_by_page(server: tuple[ApiServer, KubernetesCluster]) -> None:
    api, cluster = server
    api.will_answer(200, {"metadata": {"continue": "more"}, "items": [{"n": 1}, {"n": 2}]})
    api.will_answer(200, {"metadata": {}, "items": [{"n": 3}]})
    assert [item["n"] async for item in cluster.list(DEPLOYMENT, None)] == [1, 2, 3]
    assert api.requests[0][1:3] == (
        "/apis/apps/v1/deployments",
        {"limit": "500", "labelSelector": "outbox.bento.dev/outboxtenant"},
    )
    assert api.requests[1][2]["continue"] == "more"


async def test_tenants_are_listed_whatever_their_labels(server: tuple[ApiServer, KubernetesCluster]) -> None:
    api, cluster = server
    api.will_answer(200, {"metadata": {}, "items": []})
    assert [item async for item in cluster.list(OUTBOX_TENANT, "shop")] == []
    assert api.requests[0][1:3] == ("/apis/outbox.bento.dev/v1alpha1/namespaces/shop/outboxtenants", {"limit": "500"})


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.Rejected),
        (401, errors.ClusterError),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (422, errors.Invalid),
        (429, errors.Unreachable),
        (500, errors.Unreachable),
        (503, errors.Unreachable),
    ],
)
async def test_errors_keep_the_servers_words(
    server: tuple[ApiServer, KubernetesCluster], status: int, expected: type[errors.ClusterError]
) -> None:
    api, cluster = server
    api.will_answer(status, {"kind": "Status", "message": "spec.replicas: Invalid value"})
    with pytest.raises(errors.ClusterError, match=r"spec\.replicas: Invalid value") as caught:
        await cluster.get(DEPLOYMENT, "shop", "a")
    assert type(caught.value) is expected


async def test_the_wait_that_the_server_asks_for(server: tuple[ApiServer, KubernetesCluster]) -> None:
    api, cluster = server
    api.will_answer(429, "busy", **{"Retry-After": "7"})
    with pytest.raises(errors.Unreachable) as caught:
        await cluster.get(DEPLOYMENT, "shop", "a")
    assert caught.value.retry_after_seconds == 7


async def test_no_server() -> None:
    configuration = client.Configuration(host="http://127.0.0.1:1")
    async with KubernetesCluster(configuration, connections=1) as cluster:
        with pytest.raises(errors.Unreachable, match="GET /apis/apps/v1"):
            await cluster.get(DEPLOYMENT, "shop", "a")


async def test_credentials_for_the_watches_are_those_of_the_client() -> None:
    configuration = client.Configuration(host="https://api:6443", ssl_ca_cert="/ca.crt")
    configuration.api_key["BearerToken"] = "bearer s3cret"
    found = await credentials(configuration)
    assert (found.host, found.ca_path, found.token, found.insecure) == ("https://api:6443", "/ca.crt", "s3cret", False)


async def test_in_a_pod_a_token_that_was_renewed_is_used_within_the_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is good for an hour, and the kubelet writes the next one long before that."""
    now = datetime(2026, 3, 1, 12)
    clock = SimpleNamespace(now=lambda: now)
    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=clock, timedelta=timedelta))
    for name, variable in (("token", "SERVICE_TOKEN_FILENAME"), ("ca.crt", "SERVICE_CERT_FILENAME")):
        (tmp_path / name).write_text("first")
        monkeypatch.setattr(incluster_config, variable, str(tmp_path / name))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    configuration = await load_configuration()
    assert (await credentials(configuration)).token == "first"
    (tmp_path / "token").write_text("second")
    now += timedelta(minutes=1)
    assert (await credentials(configuration)).token == "second"
