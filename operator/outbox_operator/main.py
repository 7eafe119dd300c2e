"""The composition root: makes every part once, connects them, and ends them in order.

    watches     kopf: events into the cache, keys into the queue
    workers     keys out of the queue, reconciled; they wait for the first resync, so that a restart finds the children
                that exist and writes nothing
    resync      lists everything, now and then again

End: kopf takes SIGTERM and SIGINT and returns; then the looks that have begun are finished, nothing new is begun, and
the connections are closed. Any other part that ends has failed, and its failure ends the process: Kubernetes restarts
it, and a restart costs nothing but a list.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from functools import partial
from typing import Final

import kopf
import structlog

from outbox_operator import handlers, health
from outbox_operator.cache import Cache
from outbox_operator.cluster import Cluster, KubernetesCluster, credentials, load_configuration
from outbox_operator.keys import Key
from outbox_operator.reconciler import Reconciler
from outbox_operator.resync import Resync
from outbox_operator.settings import Settings
from outbox_operator.workqueue import WorkQueue

logger = structlog.get_logger(__name__)

SHUTDOWN_SECONDS: Final = 15
"""For the looks that have begun; less than the 30 seconds that Kubernetes gives the pod."""


async def run(settings: Settings) -> None:
    """Runs the operator until a signal ends it; raises when one of its parts fails."""
    configuration = await load_configuration()
    async with KubernetesCluster(configuration, connections=settings.workers) as cluster:
        await _Operator(cluster, settings).run(partial(credentials, configuration))


class _Operator:
    """The parts of one operator."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._cache = Cache()
        self._reconciler = Reconciler(
            cluster=cluster,
            cache=self._cache,
            projector_image=settings.projector_image,
            now=lambda: datetime.now(UTC),
        )
        self._queue = WorkQueue[Key](self._look, workers=settings.workers, clock=loop, random=random.random)
        self._resync = Resync(
            cluster=cluster,
            cache=self._cache,
            queue=self._queue,
            namespaces=settings.namespaces,
            interval_seconds=settings.resync_seconds,
            clock=loop,
        )

    async def run(self, login: handlers.Login) -> None:
        """Until a signal comes or a part fails."""
        async with health.serving(port=self._settings.http_port, unhealthy=self._resync.overdue):
            await self._run(login)

    async def _run(self, login: handlers.Login) -> None:
        workers = asyncio.create_task(self._queue.run(), name="workers")
        resync = asyncio.create_task(self._resync.run(), name="resync")
        # At its end kopf cancels every task that was created after it began: ours have to exist by then.
        await asyncio.sleep(0)
        watches = asyncio.create_task(self._watch(login), name="watches")
        tasks = [watches, workers, resync]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        logger.info("stopping", because=[task.get_name() for task in done])
        self._queue.stop()
        for task in (watches, resync):
            task.cancel()
        _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_SECONDS)
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        logger.info("stopped")

    async def _look(self, key: Key) -> float | None:
        await self._resync.done_once.wait()
        return await self._reconciler.reconcile(key)

    async def _watch(self, login: handlers.Login) -> None:
        await kopf.operator(
            registry=handlers.registry(cache=self._cache, queue=self._queue, login=login),
            settings=handlers.settings(),
            # For peering, which is off. Left to itself kopf asks for the name of the user, and in a pod there is none.
            identity="outbox-operator",  # type: ignore[arg-type]
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
        )
