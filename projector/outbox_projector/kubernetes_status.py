"""The projector's own OutboxTenant: writes its status by server-side apply, and reads it, by plain HTTP.

A Kubernetes client library would cost more memory than the whole projector, for these two requests, and an
asynchronous HTTP client more than one that runs in a thread. Every answer holds the whole object, spec included; the
last one is kept, so that requests in the spec are seen without a watch.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from urllib3 import BaseHTTPResponse, HTTPSConnectionPool, Timeout
from urllib3.exceptions import HTTPError

from bento_outbox import MisuseError
from outbox_projector.report import Status
from outbox_projector.reporter import StatusWriteFailed

API_VERSION = "outbox.bento.dev/v1alpha1"
FIELD_MANAGER = "outbox-projector"
"""Of the reports. The answer to a request has a manager of its own, such as outbox-projector-requeue: a manager's next
apply would remove what it leaves out."""
ANSWER_SECONDS = 4.0
"""For connection and answer together. A thread waits for it, so that a stop may take that long: below what the last
report has (`app.py`)."""
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class KubernetesStatus:
    """One OutboxTenant, with the rights of the pod's own service account. latest: as the API server last showed it."""

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
        self._server = host, int(port)
        self._path = f"/apis/{API_VERSION}/namespaces/{namespace}/outboxtenants/{name}/status"
        self._object = {
            "apiVersion": API_VERSION,
            "kind": "OutboxTenant",
            "metadata": {"name": name, "namespace": namespace},
        }
        self.latest: Mapping[str, Any] = {}
        self._account = account
        self._http: HTTPSConnectionPool | None = None

    async def write(self, status: Status) -> None:
        """Applies the projector's fields of the status. Raises StatusWriteFailed."""
        await self._apply(status, FIELD_MANAGER)

    async def write_request(self, action: str, status: Mapping[str, Any]) -> None:
        """Applies status.requeue or status.discard. Raises StatusWriteFailed."""
        await self._apply({action: status}, f"{FIELD_MANAGER}-{action}")

    async def read(self) -> None:
        """Brings `latest` up to date. Raises StatusWriteFailed."""
        # From the API server's cache: what is a little old is seen at the next look, and costs its database nothing.
        await self._request("GET", {"resourceVersion": "0"})

    async def _apply(self, status: Mapping[str, Any], manager: str) -> None:
        body = json.dumps({**self._object, "status": status})
        await self._request("PATCH", {"fieldManager": manager, "force": "true"}, body)

    async def _request(self, method: str, params: Mapping[str, str], body: str | None = None) -> None:
        try:
            answer = await asyncio.to_thread(self._answer, method, f"{self._path}?{urlencode(params)}", body)
            if answer.status >= 400:
                raise StatusWriteFailed(f"the API server answered {answer.status}: {_message(answer)}")
            self.latest = answer.json()
        except (HTTPError, OSError) as error:
            raise StatusWriteFailed(
                f"the API server cannot be reached: {str(error) or type(error).__name__}"
            ) from error
        except ValueError as error:
            raise StatusWriteFailed("the API server's answer is no JSON") from error

    def _answer(self, method: str, path: str, body: str | None) -> BaseHTTPResponse:
        if self._http is None:
            trust = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
            host, port = self._server
            self._http = HTTPSConnectionPool(
                host, port, ssl_context=trust, maxsize=1, retries=False, timeout=Timeout(total=ANSWER_SECONDS)
            )
        # Tokens are short-lived and renewed in place.
        headers = {"Authorization": f"Bearer {(self._account / 'token').read_text().strip()}"}
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml"
        return self._http.request(method, path, body=body, headers=headers)

    async def close(self) -> None:
        """Closes the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None


def _message(answer: BaseHTTPResponse) -> Any:
    try:
        return answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        return answer.reason
