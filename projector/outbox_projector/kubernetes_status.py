"""Writes the OutboxTenant's status: one server-side apply by plain HTTP.

A Kubernetes client library would cost more memory than the whole projector, for this one request.
"""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import Any

import aiohttp

from bento_outbox import MisuseError
from outbox_projector.report import Status
from outbox_projector.reporter import StatusWriteFailed

API_VERSION = "outbox.bento.dev/v1alpha1"
FIELD_MANAGER = "outbox-projector"
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubernetesStatus:
    """The status of one OutboxTenant, written with the pod's own service account."""

    def __init__(self, *, name: str, namespace: str, account: Path = SERVICE_ACCOUNT) -> None:
        """Raises MisuseError outside a pod."""
        host, port = (
            os.environ.get("KUBERNETES_SERVICE_HOST"),
            os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
        )
        if host is None or not (account / "token").exists():
            raise MisuseError(
                "OUTBOX_RESOURCE_NAME is set, but this is no pod with a service account: "
                "unset it to run without status reports"
            )
        host = f"[{host}]" if ":" in host else host
        self._url = f"https://{host}:{port}/apis/{API_VERSION}/namespaces/{namespace}/outboxtenants/{name}/status"
        self._object = {
            "apiVersion": API_VERSION,
            "kind": "OutboxTenant",
            "metadata": {"name": name, "namespace": namespace},
        }
        self._account = account
        self._session: aiohttp.ClientSession | None = None

    async def write(self, status: Status) -> None:
        """Applies the projector's fields of the status. Raises StatusWriteFailed."""
        try:
            # Tokens are short-lived and renewed in place.
            token = (self._account / "token").read_text().strip()
            async with self._http().patch(
                self._url,
                params={"fieldManager": FIELD_MANAGER, "force": "true"},
                data=json.dumps({**self._object, "status": status}),
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/apply-patch+yaml"},
            ) as response:
                if response.status >= 400:
                    raise StatusWriteFailed(f"the API server answered {response.status}: {await _message(response)}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise StatusWriteFailed(
                f"the API server cannot be reached: {str(error) or type(error).__name__}"
            ) from error

    async def close(self) -> None:
        """Closes the connection."""
        if self._session is not None:
            await self._session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            trust = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=trust, limit=1), timeout=aiohttp.ClientTimeout(total=15)
            )
        return self._session


async def _message(response: aiohttp.ClientResponse) -> Any:
    try:
        return (await response.json())["message"]
    except (ValueError, KeyError, TypeError, aiohttp.ContentTypeError):
        return response.reason
