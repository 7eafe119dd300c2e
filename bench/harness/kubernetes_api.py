"""The API server, as a loop that somebody writes in ten minutes would use it: requests, and no more."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from bench.harness.control_plane import ControlPlane
from bench.harness.errors import BenchError
from outbox_operator.keys import Kind, Manifest


@asynccontextmanager
async def connected(plane: ControlPlane, *, connections: int) -> AsyncIterator[Api]:
    """An administrator with so many connections."""
    trust = ssl.create_default_context(cafile=str(plane.certificate))
    connector = aiohttp.TCPConnector(limit=connections, ssl=trust)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(session, plane)


class Api:
    """Objects go in and out as plain data."""

    def __init__(self, session: aiohttp.ClientSession, plane: ControlPlane) -> None:
        self._session, self._plane = session, plane

    async def get(self, kind: Kind, namespace: str, name: str) -> Manifest:
        return dict(json.loads(await self._request("GET", kind.path(namespace, name))))

    async def list(self, kind: Kind, namespace: str) -> list[Manifest]:
        return list(json.loads(await self._request("GET", kind.path(namespace)))["items"])

    async def count(self, kind: Kind, namespace: str) -> int:
        """How many there are."""
        page = json.loads(await self._request("GET", f"{kind.path(namespace)}?limit=1"))
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    async def apply(self, kind: Kind, manifest: Manifest, *, subresource: str = "", manager: str = "bench") -> Manifest:
        metadata = manifest["metadata"]
        path = kind.path(metadata["namespace"], metadata["name"]) + subresource
        content = await self._request(
            "PATCH", f"{path}?fieldManager={manager}&force=true", manifest, "application/apply-patch+yaml"
        )
        return dict(json.loads(content))

    async def merge(self, kind: Kind, namespace: str, name: str, change: Manifest) -> Manifest:
        content = await self._request("PATCH", kind.path(namespace, name), change, "application/merge-patch+json")
        return dict(json.loads(content))

    async def delete(self, kind: Kind, namespace: str, name: str) -> None:
        await self._request("DELETE", kind.path(namespace, name))

    async def applies(self) -> int:
        """Server-side applies that the API server has answered so far, of everybody, those of Leases aside."""
        text = (await self._request("GET", "/metrics")).decode()
        counts = re.findall(r'^apiserver_request_total\{(.*verb="APPLY".*)\} (\S+)$', text, flags=re.MULTILINE)
        return round(sum(float(count) for labels, count in counts if 'resource="leases"' not in labels))

    async def _request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> bytes:
        headers = {"Authorization": f"Bearer {self._plane.token}", "Content-Type": content_type}
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, self._plane.server + path, data=data, headers=headers) as response:
            content = await response.read()
            if response.status >= 300:
                raise BenchError(f"{method} {path}: {response.status} {content[:500].decode(errors='replace')}")
            return content
