"""The composition root: makes every part once, connects them, and ends them in order.

    election    holds the Lease, or stands by until it can
    watches     kopf: events into the cache, keys into the queue; in a standby, too
    resync      lists everything; again when a watch had to begin anew, and now and then
    workers     keys out of the queue, reconciled; they wait for the first resync, so that a restart finds the children
                that exist and writes nothing, and for the Lease

End: at SIGTERM the looks that have begun are finished and nothing new is begun; then the Lease is given back, and a
standby leads within a second or two; then the watches and the connections are closed. Any part that ends by itself has
failed, and its failure ends the process at once: another replica goes on, and a restart costs nothing but a list.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import kopf
import structlog

from outbox_operator import handlers, http_endpoints
from outbox_operator.cache import Cache
from outbox_operator.cluster import Cluster, KubernetesCluster, credentials, load_configuration
from outbox_operator.election import Election, LeadershipLost
from outbox_operator.events import Recorder
from outbox_operator.keys import Key
from outbox_operator.metrics import Metrics
from outbox_operator.reconciler import Reconciler
from outbox_operator.resync import Resync
from outbox_operator.rollouts import Rollouts
from outbox_operator.settings import Settings
from outbox_operator.watching import WatchMonitor
from outbox_operator.workqueue import WorkQueue

logger = structlog.get_logger(__name__)

SHUTDOWN_SECONDS: Final = 15
"""For the looks that have begun; less than the 30 seconds that Kubernetes gives the pod."""

REWATCH_SECONDS: Final = 1
"""After watches that failed, besides the five that kopf takes to end them all."""


async def run(settings: Settings) -> None:
    """Runs the operator until a signal ends it; raises when one of its parts fails."""
    configuration = await load_configuration()
    async with KubernetesCluster(configuration, connections=connections(settings)) as cluster:
        await Operator(cluster, settings).run(partial(credentials, configuration))


def connections(settings: Settings) -> int:
    """One for each worker, for the resync and for the Lease, so that nobody waits for one: the client hands one that is
    free to whoever asks next, before those who wait. Busy workers would keep a renewal of the Lease waiting for ever.
    """
    return settings.workers + 2


class Operator:
    """The parts of one operator."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._stop = asyncio.Event()
        self._queue = WorkQueue[Key](self._look, workers=settings.workers, clock=loop, random=random.random)
        self._cache, self._watches = Cache(wake=self._queue.add), WatchMonitor(loop)
        self._election = Election(
            cluster,
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            me=settings.identity,
            clock=loop,
            now=_utc_now,
        )
        rollouts = Rollouts(settings.max_concurrent_rollouts, wake=self._queue.add)
        self._reconciler = Reconciler(
            cluster=cluster,
            cache=self._cache,
            watches=self._watches,
            rollouts=rollouts,
            events=Recorder(cluster, now=_utc_now),
            projector_image=settings.projector_image,
            now=_utc_now,
        )
        self._resync = Resync(
            cluster=cluster,
            cache=self._cache,
            queue=self._queue,
            watches=self._watches,
            namespaces=settings.namespaces,
            interval_seconds=settings.resync_seconds,
            clock=loop,
            after_each=_spare_the_garbage_collector,
        )

        self._metrics = Metrics(
            cache=self._cache,
            queue=self._queue,
            rollouts=rollouts,
            writes=self._reconciler.writes,
            acts=lambda: self._election.holds,
        )

    def stop(self) -> None:
        """Ends `run`, as SIGTERM does."""
        self._stop.set()

    async def run(self, login: handlers.Login) -> None:
        """Until a signal comes or a part fails."""
        async with http_endpoints.serving(
            port=self._settings.http_port, unhealthy=self._unhealthy, metrics=self._metrics.exposition
        ):
            await self._run(login)

    async def _run(self, login: handlers.Login) -> None:
        workers = asyncio.create_task(self._work(), name="workers")
        election = asyncio.create_task(self._election.run(), name="election")
        others = [
            asyncio.create_task(self._resync.run(), name="resync"),
            asyncio.create_task(self._watch(login), name="watches"),
        ]
        stop = asyncio.create_task(self._stop.wait(), name="signal")
        done, _ = await asyncio.wait([stop, workers, election, *others], return_when=asyncio.FIRST_COMPLETED)
        logger.info("stopping", because=[task.get_name() for task in done])
        self._queue.stop()
        if done == {stop} and self._election.leading.is_set():
            await asyncio.wait([workers], timeout=SHUTDOWN_SECONDS)
        await _cancelled([workers, stop])
        await _cancelled([election])
        await self._election.release()
        await _cancelled(others)
        for task in (workers, election, *others):
            if not task.cancelled() and (error := task.exception()):
                raise error
        logger.info("stopped")

    async def _work(self) -> None:
        await self._resync.done_once.wait()
        await self._election.leading.wait()
        if self._election.ran_out:
            self._reconciler.acting_since = _utc_now()
        self._reconciler.take_over_rollouts()
        logger.info("reconciling", tenants=len(self._cache.tenants()))
        async with asyncio.TaskGroup() as group:
            telling = group.create_task(self._tell_when_caught_up())
            await self._queue.run()
            telling.cancel()

    async def _tell_when_caught_up(self) -> None:
        began = time.monotonic()
        await self._queue.caught_up()
        logger.info("caught up", tenants=len(self._cache.tenants()), seconds=round(time.monotonic() - began, 1))

    async def _look(self, key: Key) -> float | None:
        if not self._election.holds:
            raise LeadershipLost("This process no longer holds the Lease.")
        return await self._reconciler.reconcile(key)

    def _unhealthy(self) -> str | None:
        return self._resync.overdue() or self._watches.dead()

    async def _watch(self, login: handlers.Login) -> None:
        """For ever. kopf ends all watches when one is told of an error but 410: a new leader in etcd may be one."""
        while True:
            try:
                await self._watch_until_failure(login)
            except Exception as error:  # noqa: BLE001 - whatever it is; those of kopf are not public
                logger.warning("watches failed", error=str(error), retry_in_seconds=REWATCH_SECONDS)
                await asyncio.sleep(REWATCH_SECONDS)

    async def _watch_until_failure(self, login: handlers.Login) -> None:
        tasks = await kopf.spawn_tasks(
            registry=handlers.registry(
                cache=self._cache,
                queue=self._queue,
                watches=self._watches,
                listing=self._resync.soon,
                login=login,
            ),
            settings=handlers.settings(),
            # For peering, which is off. Left to itself kopf asks for the name of the user, and in a pod there is none.
            identity=self._settings.identity,  # type: ignore[arg-type]
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
        )
        # After kopf's own, which would end the watches first and take five seconds for it.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.stop)
        await kopf.run_tasks(tasks, ignored=handlers.NotOfKopf())


async def _cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Ends the tasks, whatever comes of it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _spare_the_garbage_collector() -> None:
    """It leaves alone what is there now, which stays: to look through it again and again takes a tenth of the CPU of
    reports. What has become garbage since the last time goes before."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _utc_now() -> datetime:
    return datetime.now(UTC)
