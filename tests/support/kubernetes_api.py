"""The cluster in memory behind HTTP on loopback: lists, watches, server-side applies; and the faults of a real one."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from outbox_operator import errors
from outbox_operator.keys import EVENT, LEASE, WATCHED, Kind
from outbox_operator.testing import InMemoryCluster

Manifest = dict[str, Any]
KINDS = (
    *(*WATCHED, LEASE, EVENT),
    # kopf waits until it has seen that there are such.
    Kind("", "v1", "Namespace", "namespaces"),
    Kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"),
)
STATUS = {errors.NotFound: 404, errors.Conflict: 409, errors.Forbidden: 403, errors.Rejected: 400, errors.Invalid: 422}


class ApiServer:
    """What kopf and the operator's own client need of an API server."""

    def __init__(self) -> None:
        self.cluster = InMemoryCluster()
        self.cluster.listeners.append(self._remember)
        self._latest = 0
        self._history: list[tuple[int, Manifest]] = []
        self._told: dict[asyncio.Event, Kind] = {}
        """What each watch waits for, and the kind it is about."""
        self._streams: set[asyncio.Task[Any]] = set()
        self.refusals: deque[int] = deque()
        """Statuses with which the next requests to list, watch or write are answered instead."""
        self.lost_answers = 0
        """So many writes from now on are done, and the connection breaks instead of an answer."""
        self.token: str | None = None
        """Who brings another is refused. None: nobody is asked."""
        self.unauthorized: list[str] = []
        """What was asked for with another token: "GET /apis"."""
        self.waiting = 0
        """Requests to list or write that get no answer, since it is `busy`."""
        self._free = asyncio.Event()
        self._free.set()
        self.watches = 0
        """How many were begun."""
        self._failure: Manifest | None = None

    @property
    def watched(self) -> list[str]:
        """The kinds of the watches that there are now and that are not mute."""
        return sorted(kind.plural for kind in self._told.values())

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._authenticated])
        app.router.add_get("/api", self._api_versions)
        app.router.add_get("/apis", self._groups)
        for prefix in ("/api/{version}", "/apis/{group}/{version}"):
            app.router.add_get(prefix, self._resources)
            app.router.add_get(prefix + "/{plural}", self._list_or_watch)
            app.router.add_get(prefix + "/namespaces/{namespace}/{plural}/{name}", self._get)
            for subresource in ("", "/status"):
                app.router.add_patch(prefix + "/namespaces/{namespace}/{plural}/{name}" + subresource, self._apply)
        return app

    # --- what goes wrong

    def cut_the_watches(self) -> None:
        """Every connection that a watch has breaks."""
        for stream in self._streams:
            stream.cancel()

    def mute(self, *kinds: Kind) -> None:
        """Nothing more arrives over the watches of these kinds that there are now; their connections stay open."""
        for changed in [changed for changed, kind in self._told.items() if kind in kinds]:
            del self._told[changed]

    def fail_the_watches(self, status: int) -> None:
        """Every watch is told, in its stream, of an error other than a history that is gone."""
        self._failure = {
            "type": "ERROR",
            "object": {"kind": "Status", "code": status, "message": "etcdserver: leader changed"},
        }
        for changed in self._told:
            changed.set()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Lists and writes are answered after the block only; but those of Leases, as the flow control of real API
        servers has it."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def forget(self) -> None:
        """The history is compacted: a watch that wants to go on from there is told 410 Gone."""
        self._history.clear()

    # --- what it answers

    @web.middleware
    async def _authenticated(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if self.token is not None and request.headers.get("Authorization", "").split()[-1:] != [self.token]:
            self.unauthorized.append(f"{request.method} {request.path}")
            return _failure(401, "Unauthorized")
        return await handler(request)

    async def _api_versions(self, _: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1"]})

    async def _groups(self, _: web.Request) -> web.Response:
        groups = {kind.group: {"version": kind.version} for kind in KINDS if kind.group}
        named = [{"name": name, "preferredVersion": v, "versions": [v]} for name, v in groups.items()]
        return web.json_response({"groups": named})

    async def _resources(self, request: web.Request) -> web.Response:
        group = request.match_info.get("group", "")
        verbs = ["list", "watch", "patch", "get"]
        found = [
            {"name": k.plural, "kind": k.kind, "singularName": k.kind.lower(), "namespaced": True, "verbs": verbs}
            for k in KINDS
            if k.group == group
        ]
        return web.json_response({"resources": found})

    async def _list_or_watch(self, request: web.Request) -> web.StreamResponse:
        if refusal := self._refusal():
            return refusal
        kind = _kind(request)
        if request.query.get("watch") == "true":
            return await self._watch(request, kind, since=int(request.query["resourceVersion"]))
        await self._until_free()
        items = [obj async for obj in self.cluster.list(kind, None)]
        return web.json_response({"metadata": {"resourceVersion": str(self._latest)}, "items": items})

    async def _watch(self, request: web.Request, kind: Kind, *, since: int) -> web.StreamResponse:
        self.watches += 1
        self._failure = None
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self._latest and (not self._history or self._history[0][0] > since + 1):
            gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}
            await response.write(json.dumps(gone).encode() + b"\n")
            return response
        stream = asyncio.ensure_future(self._stream(response, kind, since))
        self._streams.add(stream)
        try:
            await asyncio.wait([stream])
        finally:
            stream.cancel()
            self._streams.discard(stream)
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _stream(self, response: web.StreamResponse, kind: Kind, since: int) -> None:
        changed = asyncio.Event()
        self._told[changed] = kind
        try:
            while True:
                changed.clear()
                for version, event in list(self._history):
                    if version > since:
                        since = version
                        if event["kind"] == kind:
                            line = json.dumps({"type": event["type"], "object": event["object"]})
                            await response.write(line.encode() + b"\n")
                await changed.wait()
                if self._failure is not None:
                    await response.write(json.dumps(self._failure).encode() + b"\n")
                    return
        finally:
            self._told.pop(changed, None)

    async def _get(self, request: web.Request) -> web.Response:
        try:
            found = await self.cluster.get(_kind(request), request.match_info["namespace"], request.match_info["name"])
        except errors.NotFound as error:
            return _failure(404, str(error))
        return web.json_response(found)

    async def _apply(self, request: web.Request) -> web.Response:
        if _kind(request) != LEASE and (refusal := self._refusal()):
            return refusal
        if _kind(request) != LEASE:
            await self._until_free()
        manifest, force = await request.json(), request.query["force"] == "true"
        try:
            if request.path.endswith("/status"):
                applied = await self.cluster.apply_status(manifest)
            else:
                manager = request.query["fieldManager"]
                applied = await self.cluster.apply(_kind(request), manifest, force=force, manager=manager)
        except errors.ClusterError as error:
            return _failure(STATUS[type(error)], str(error))
        if _kind(request) != LEASE and self.lost_answers and request.transport is not None:
            self.lost_answers -= 1
            request.transport.abort()
        return web.json_response(applied)

    def _remember(self, event: str, kind: Kind, obj: Manifest) -> None:
        self._latest = int(obj["metadata"]["resourceVersion"])
        self._history.append((self._latest, {"type": event, "kind": kind, "object": obj}))
        for changed in self._told:
            changed.set()

    async def _until_free(self) -> None:
        self.waiting += 1
        try:
            await self._free.wait()
        finally:
            self.waiting -= 1

    def _refusal(self) -> web.Response | None:
        if not self.refusals:
            return None
        status = self.refusals.popleft()
        return _failure(status, f"refused with {status}, as the test wants it")


def _kind(request: web.Request) -> Kind:
    return next(kind for kind in KINDS if kind.plural == request.match_info["plural"])


def _failure(status: int, message: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": message}
    return web.json_response(body, status=status)
