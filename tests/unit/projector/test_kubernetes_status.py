"""The requests to the API server, against a local one that speaks TLS with a certificate of its own."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from bento_outbox import MisuseError
from outbox_projector.kubernetes_status import KubernetesStatus
from outbox_projector.reporter import StatusWriteFailed
from tests.support.certificates import self_signed

STATUS = {"projector": {"pending": 3}, "conditions": [{"type": "DatabaseReachable", "status": "True"}]}


@dataclass
class ApiServer:
    """Answers as it is told to and keeps what it was asked."""

    port: int = 0
    status: int = 200
    body: str = "{}"
    content_type: str = "application/json"
    requests: list[tuple[web.Request, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append((request, await request.text()))
        return web.Response(status=self.status, text=self.body, content_type=self.content_type)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    return self_signed(tmp_path_factory.mktemp("certificate"), "ca")


@pytest.fixture
def account(tmp_path: Path, certificate: tuple[Path, Path]) -> Path:
    """The folder that a pod's service account is mounted at."""
    (tmp_path / "token").write_text("first-token\n")
    (tmp_path / "ca.crt").write_bytes(certificate[0].read_bytes())
    return tmp_path


@pytest.fixture
async def api(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    api = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.answer)
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(*certificate)
    server = TestServer(application, scheme="https")
    await server.start_server(ssl=trust)
    assert server.port is not None
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
    yield api
    await server.close()


@pytest.fixture
async def writer(api: ApiServer, account: Path) -> AsyncIterator[KubernetesStatus]:
    writer = KubernetesStatus(name="acme", namespace="shop", account=account)
    yield writer
    await writer.close()


async def test_the_request_is_a_server_side_apply_of_the_status(api: ApiServer, writer: KubernetesStatus) -> None:
    await writer.write(STATUS)

    [(request, body)] = api.requests
    assert request.method == "PATCH"
    assert request.path == "/apis/outbox.bento.dev/v1alpha1/namespaces/shop/outboxtenants/acme/status"
    assert dict(request.query) == {"fieldManager": "outbox-projector", "force": "true"}
    assert request.headers["Content-Type"] == "application/apply-patch+yaml"
    assert request.headers["Authorization"] == "Bearer first-token"
    assert json.loads(body) == {
        "apiVersion": "outbox.bento.dev/v1alpha1",
        "kind": "OutboxTenant",
        "metadata": {"name": "acme", "namespace": "shop"},
        "status": STATUS,
    }


async def test_an_answer_to_a_request_leaves_the_report_alone(api: ApiServer, writer: KubernetesStatus) -> None:
    """A manager's next apply removes what it leaves out: each has one of its own."""
    await writer.write_request("requeue", {"requestId": "one"})
    await writer.write_request("discard", {"requestId": "one"})

    assert [request.query["fieldManager"] for request, _ in api.requests] == [
        "outbox-projector-requeue",
        "outbox-projector-discard",
    ]
    assert json.loads(api.requests[0][1])["status"] == {"requeue": {"requestId": "one"}}


async def test_every_answer_shows_the_whole_object(api: ApiServer, writer: KubernetesStatus) -> None:
    assert writer.latest == {}
    api.body = '{"spec": {"requeue": {"requestId": "one"}}}'
    await writer.write(STATUS)
    assert writer.latest == {"spec": {"requeue": {"requestId": "one"}}}

    api.body = '{"spec": {}}'
    await writer.read()
    assert writer.latest == {"spec": {}}
    [_, (request, body)] = api.requests
    assert (request.method, body) == ("GET", "")
    assert request.path == "/apis/outbox.bento.dev/v1alpha1/namespaces/shop/outboxtenants/acme/status"
    assert dict(request.query) == {"resourceVersion": "0"}
    assert request.headers["Authorization"] == "Bearer first-token"


async def test_an_answer_that_is_no_json_is_told(api: ApiServer, writer: KubernetesStatus) -> None:
    api.body, api.content_type = "<html>", "text/html"
    with pytest.raises(StatusWriteFailed, match="the API server's answer is no JSON"):
        await writer.read()


async def test_a_renewed_token_is_used_without_a_restart(
    api: ApiServer, writer: KubernetesStatus, account: Path
) -> None:
    await writer.write(STATUS)
    (account / "token").write_text("second-token\n")
    await writer.write(STATUS)

    assert [request.headers["Authorization"] for request, _ in api.requests] == [
        "Bearer first-token",
        "Bearer second-token",
    ]


@pytest.mark.parametrize(
    ("status", "body", "content_type", "said"),
    [
        (403, '{"message": "may not patch"}', "application/json", "answered 403: may not patch"),
        (404, '{"message": "not found"}', "application/json", "answered 404: not found"),
        (500, "oops", "text/plain", "answered 500: Internal Server Error"),
        (502, "{", "application/json", "answered 502: Bad Gateway"),
        (503, '"busy"', "application/json", "answered 503: Service Unavailable"),
        (503, "{}", "application/json", "answered 503: Service Unavailable"),
    ],
)
async def test_an_answer_that_is_no_success_is_told(
    api: ApiServer, writer: KubernetesStatus, status: int, body: str, content_type: str, said: str
) -> None:
    api.status, api.body, api.content_type = status, body, content_type

    with pytest.raises(StatusWriteFailed, match=said) as raised:
        await writer.write(STATUS)

    assert "first-token" not in str(raised.value)


async def test_an_api_server_that_is_not_there(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(unused_port()))
    writer = KubernetesStatus(name="acme", namespace="shop", account=account)

    with pytest.raises(StatusWriteFailed, match="the API server cannot be reached: "):
        await writer.write(STATUS)

    await writer.close()


async def test_another_certificate_than_the_clusters_is_not_trusted(
    api: ApiServer, account: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")  # the certificate is for 127.0.0.1
    writer = KubernetesStatus(name="acme", namespace="shop", account=account)

    with pytest.raises(StatusWriteFailed, match="certificate"):
        await writer.write(STATUS)

    assert api.requests == []
    await writer.close()


async def test_a_token_that_vanished_is_told(api: ApiServer, writer: KubernetesStatus, account: Path) -> None:
    (account / "token").unlink()

    with pytest.raises(StatusWriteFailed, match="token"):
        await writer.write(STATUS)


async def test_close_is_idempotent_and_needs_no_write_before(api: ApiServer, account: Path) -> None:
    writer = KubernetesStatus(name="acme", namespace="shop", account=account)
    await writer.close()
    await writer.write(STATUS)
    await writer.close()
    await writer.close()


def test_outside_a_pod_there_is_nothing_to_write_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(MisuseError, match="no pod with a service account: unset it to run without status reports"):
        KubernetesStatus(name="acme", namespace="shop", account=tmp_path)
