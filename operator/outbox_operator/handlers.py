"""Where kopf ends and we begin: each event updates the cache and puts one key into the queue.

kopf serves as watcher only: it lists, watches, reconnects, and logs in again. All its features that write
(finalizers, annotations with its progress, events, peering) stay off, and its error handling is not used, since
nothing here can fail: retries are the queue's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from itertools import chain, repeat
from typing import Any

import kopf

from outbox_operator.cache import Cache
from outbox_operator.cluster import Credentials
from outbox_operator.keys import LABEL, OUTBOX_TENANT, WATCHED, Key, Kind, key_of
from outbox_operator.watching import WatchMonitor
from outbox_operator.workqueue import WorkQueue

Login = Callable[[], Awaitable[Credentials]]
"""What kopf calls at the start, and again when the API server refuses the credentials."""


def registry(
    *, cache: Cache, queue: WorkQueue[Key], watches: WatchMonitor, listing: Callable[[], None], login: Login
) -> kopf.OperatorRegistry:
    """All handlers, for one operator; `listing` is called for each object that a watch finds when it begins (anew)."""
    handlers = kopf.OperatorRegistry()
    for kind in WATCHED:
        _watch(kind, handlers, cache=cache, queue=queue, watches=watches, listing=listing)

    @kopf.on.login(registry=handlers)
    async def on_login(**_: Any) -> kopf.ConnectionInfo:
        current = await login()
        return kopf.ConnectionInfo(
            server=current.host,
            ca_path=current.ca_path,
            insecure=current.insecure,
            certificate_path=current.certificate_path,
            private_key_path=current.private_key_path,
            scheme="Bearer" if current.token else None,
            token=current.token,
        )

    return handlers


def _watch(
    kind: Kind,
    handlers: kopf.OperatorRegistry,
    *,
    cache: Cache,
    queue: WorkQueue[Key],
    watches: WatchMonitor,
    listing: Callable[[], None],
) -> None:
    @kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
        watches.seen(kind, obj)
        if event["type"] is None:
            listing()
        key = key_of(kind, obj)
        news = cache.forget(kind, obj) if event["type"] == "DELETED" else cache.put(kind, obj)
        if news and key:
            # A new tenant has nothing yet; with all others it is rather about what the status says.
            queue.add(key, ahead=kind == OUTBOX_TENANT and event["type"] == "ADDED")


class _NothingRemembered(kopf.DiffBaseStorage):
    """Keeps kopf from copying each object three times in order to find differences that no handler here asks for.

    That is most of what an event costs.
    """

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return None


class _Backoffs:
    """Seconds between attempts, which never end: kopf ends the process after the last one.

    Of an API server that was away we want to know at once: by default it is up to 21 seconds.
    """

    def __iter__(self) -> Iterator[float]:
        return chain((1.0, 1.0, 2.0), repeat(3.0))


class NotOfKopf(Collection[asyncio.Task[Any]]):
    """The tasks that kopf may not cancel at its end, when it ends all that it does not know to be somebody else's.

    Of its own only watches can be left over then, where one of them has failed. They are known by their names.
    """

    def __contains__(self, task: object) -> bool:
        return isinstance(task, asyncio.Task) and not task.get_name().startswith("watcher for ")

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return (task for task in asyncio.all_tasks() if task in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def settings() -> kopf.OperatorSettings:
    """kopf's own settings: quiet, patient with slow lists, impatient with dead connections."""
    chosen = kopf.OperatorSettings()
    chosen.persistence.diffbase_storage = _NothingRemembered()
    chosen.persistence.progress_storage = kopf.MultiProgressStorage([])
    chosen.peering.standalone = True
    chosen.posting.enabled = False
    # The kinds exist when we start (the first resync has listed them), so no list of CRDs and namespaces is needed.
    chosen.scanning.disabled = True
    for kind in WATCHED:
        if kind != OUTBOX_TENANT:
            chosen.watching.label_selectors[kind.group, kind.version, kind.plural] = LABEL
    # Each chunk is there as Python objects while it is worked on, of all six kinds at the same time.
    chosen.watching.chunk_size = 100
    chosen.watching.server_timeout = 600
    chosen.watching.client_timeout = 660
    chosen.watching.connect_timeout = 10
    chosen.networking.request_timeout = 30
    chosen.networking.error_backoffs = _Backoffs()
    chosen.queueing.worker_limit = None
    # A task per object that had news, which keeps the object for so long; after a restart that is every object.
    chosen.queueing.idle_timeout = 0.02
    # It would kill the process so long after the watches' end, whoever else goes on in it; Kubernetes kills the pod.
    chosen.process.ultimate_exiting_timeout = None
    return chosen
