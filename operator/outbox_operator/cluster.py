"""The API server as this operator needs it: get, list, apply, replace, apply_status. Only here the client is known.

Objects go in and out as plain data. The client's typed models are left out on purpose: they take ten times the CPU and
memory, and know nothing of our kind. Its errors are translated here, and only here, into the tree of errors.py.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from kubernetes.aio import client, config
from kubernetes.utils.quantity import parse_quantity
from yaml import YAMLError

from outbox_operator import errors
from outbox_operator.keys import FIELD_MANAGER, LABEL, OUTBOX_TENANT, Kind, Manifest

REQUEST_TIMEOUT: Final = aiohttp.ClientTimeout(total=30)
"""For one request, in seconds. A look makes a handful, one after the other: so it bounds how long it holds a worker."""
PAGE_SIZE: Final = 500

APPLY: Final = "application/apply-patch+yaml"
STRATEGIC_MERGE: Final = "application/strategic-merge-patch+json"
JSON_MERGE: Final = "application/merge-patch+json"


class Cluster(Protocol):
    """What the reconciler and the resync need of a cluster; the tests bring one of their own."""

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest: ...

    def list(self, kind: Kind, namespace: str | None) -> AsyncIterator[Manifest]: ...

    async def apply(self, kind: Kind, manifest: Manifest, *, force: bool, manager: str = FIELD_MANAGER) -> Manifest: ...

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest: ...

    async def apply_status(self, manifest: Manifest) -> Manifest: ...


async def load_configuration() -> client.Configuration:
    """How to reach the API server: the pod's service account where there is one, otherwise the kubeconfig."""
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except config.ConfigException:
        try:
            await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        # The last two come of a file that is empty, or no YAML.
        except (config.ConfigException, TypeError, YAMLError) as error:
            raise errors.ClusterError(
                "No cluster to talk to: not in a pod with a service account, and no usable kubeconfig in "
                f"{os.environ.get('KUBECONFIG') or '~/.kube/config'} ({' '.join(str(error).split())}). "
                "Set KUBECONFIG to a kubeconfig file."
            ) from error
    return configuration


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client of our own needs to reach the same API server as the same account."""

    host: str
    ca_path: str | None
    certificate_path: str | None
    private_key_path: str | None
    token: str | None
    insecure: bool


async def credentials(configuration: client.Configuration) -> Credentials:
    """The credentials as they are now: a service account's token is another one every hour."""
    bearer = await configuration.get_api_key_with_prefix("BearerToken")
    return Credentials(
        host=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        token=bearer.split()[-1] if bearer else None,
        insecure=not configuration.verify_ssl,
    )


class KubernetesCluster:
    """A real API server. An async context manager that owns its connections."""

    def __init__(self, configuration: client.Configuration, *, connections: int) -> None:
        configuration.connection_pool_maxsize = connections
        # Otherwise each request asks for proxies and .netrc anew, in a thread; a kubeconfig names its proxy itself.
        configuration.client_session_kwargs = {"trust_env": False}
        self._client = client.ApiClient(configuration)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        return _object(await self._send("GET", kind.path(namespace, name)))

    async def list(self, kind: Kind, namespace: str | None) -> AsyncIterator[Manifest]:
        """All OutboxTenants, or of another kind those with our label, page by page; None is every namespace."""
        query: dict[str, str] = {"limit": str(PAGE_SIZE)}
        if kind != OUTBOX_TENANT:
            query["labelSelector"] = LABEL
        while True:
            page = msgspec.json.decode(await self._send("GET", kind.path(namespace), query), type=_Page)
            for item in page.items:
                yield _object(item)
            if not page.metadata.continues:
                return
            query["continue"] = page.metadata.continues

    async def apply(self, kind: Kind, manifest: Manifest, *, force: bool, manager: str = FIELD_MANAGER) -> Manifest:
        """Server-side apply.

        A Conflict when another manager owns a field of the manifest and `force` is not set, or when the manifest names
        a resource version and the object has another.
        """
        return await self._apply(kind, manifest, subresource="", force=force, manager=manager)

    async def replace(self, kind: Kind, manifest: Manifest) -> Manifest:
        """Applies by force, after taking out of the spec what others have set there, which an apply leaves alone."""
        path, query = _path(kind, manifest), {"fieldManager": FIELD_MANAGER}
        spec = {"spec": {"$patch": "replace", **manifest["spec"]}}
        replaced = _object(await self._send("PATCH", path, query, body=spec, form=STRATEGIC_MERGE))
        # What that has changed we own by an update, besides what we own by applying it. Nothing goes while it is owned
        # once more: a variable would stay for ever, however often we apply without it.
        owners = [each for each in replaced["metadata"]["managedFields"] if not _is_update_of_ours(each)]
        await self._send("PATCH", path, query, body={"metadata": {"managedFields": owners}}, form=JSON_MERGE)
        return await self.apply(kind, manifest, force=True)

    async def apply_status(self, manifest: Manifest) -> Manifest:
        """Server-side apply of the status of an OutboxTenant: our fields of it, all of them."""
        return await self._apply(OUTBOX_TENANT, manifest, subresource="/status", force=True, manager=FIELD_MANAGER)

    async def _apply(self, kind: Kind, manifest: Manifest, *, subresource: str, force: bool, manager: str) -> Manifest:
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return _object(await self._send("PATCH", _path(kind, manifest) + subresource, query, body=manifest))

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        *,
        form: str = APPLY,
    ) -> bytes:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = form
        await self._client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = await self._client.call_api(method, url, headers, body=body, _request_timeout=REQUEST_TIMEOUT)
            content: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise errors.Unreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        if response.status >= 300:
            raise _translated(response.status, response.headers, content, what=f"{method} {path}")
        return content


class _PageMetadata(msgspec.Struct):
    continues: str = msgspec.field(name="continue", default="")


class _Page(msgspec.Struct):
    """A part of a list. Its objects stay text until their turn: five hundred of them take 15 MB as Python objects."""

    items: list[msgspec.Raw]
    metadata: _PageMetadata


def is_same_quantity(one: str | int, other: str | int) -> bool:
    """Whether both are the same amount of cpu or memory, as 1024Mi and 1Gi are. ValueError if one is no quantity."""
    return bool(parse_quantity(one) == parse_quantity(other))  # type: ignore[no-untyped-call]


def _path(kind: Kind, manifest: Manifest) -> str:
    return kind.path(manifest["metadata"]["namespace"], manifest["metadata"]["name"])


def _is_update_of_ours(owner: Manifest) -> bool:
    return (owner["manager"], owner["operation"], owner.get("subresource", "")) == (FIELD_MANAGER, "Update", "")


def _object(content: bytes | msgspec.Raw) -> Manifest:
    return msgspec.json.decode(content, type=Manifest)


def _translated(status: int, headers: Mapping[str, str], content: bytes, *, what: str) -> errors.ClusterError:
    """The error for an answer that is none, with the API server's own message."""
    try:
        message = msgspec.json.decode(content)["message"]
    except (msgspec.DecodeError, KeyError, TypeError):
        message = content[:200].decode(errors="replace") or f"status {status}"
    kinds: dict[int, type[errors.ClusterError]] = {
        400: errors.Rejected,
        403: errors.Forbidden,
        404: errors.NotFound,
        409: errors.Conflict,
        422: errors.Invalid,
        429: errors.Unreachable,
    }
    default: type[errors.ClusterError] = errors.Unreachable if status >= 500 else errors.ClusterError
    error = kinds.get(status, default)(f"{what}: {message}")
    retry_after: Any = headers.get("Retry-After")
    if isinstance(retry_after, str) and retry_after.isdigit():
        error.retry_after_seconds = float(retry_after)
    return error
