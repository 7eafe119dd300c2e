"""One look at one OutboxTenant: make what is equal to what should be, and say in the status how it stands.

A look reads everything from the cache and writes only what differs, so that in a steady state it makes no request at
all. It can be interrupted anywhere and repeated at any time. The first look at a new tenant only creates its children;
the status is for the next one, which has more to say, and comes after the first looks at others that are new, too.

Problems that a person has to solve (a quota, an image that is no image name, somebody else's object under the name of
ours) are written into the status as well as raised; raising them makes the queue look again, in growing intervals. What
may pass by itself (no answer, an error of the API server) is written there only when it comes twice in a row. Whether
there is anybody to tell it to, the API server decides: while it is away it takes no status either, but while a webhook
is away that has to admit a child, it does.

Deletion needs nothing from us: the children have the OutboxTenant as their controller, and the garbage collector of
Kubernetes removes them after it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from copy import copy
from datetime import datetime
from typing import Final

import msgspec
import structlog

from outbox_operator import conditions, errors, manifests
from outbox_operator.cache import Cache
from outbox_operator.cluster import Cluster
from outbox_operator.conditions import Observation
from outbox_operator.drift import difference
from outbox_operator.events import Recorder, news
from outbox_operator.keys import CHILDREN, DEPLOYMENT, OUTBOX_TENANT, Key, Kind, Manifest, child_name, controller_of
from outbox_operator.rollouts import Rollouts, default_image, is_under_way, needs_a_place, pod_hash
from outbox_operator.watching import WatchMonitor

logger = structlog.get_logger(__name__)

_Basis = tuple[str | int | None, ...]
"""What the wanted children are made from, and the versions of the live ones."""

AGAIN_SECONDS: Final = 1.0
"""After a look that wrote something, until the next one. See `_remember`."""


class Reconciler:
    """Its method `reconcile` is what the queue calls for each key, never twice at the same time for the same key."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        cache: Cache,
        watches: WatchMonitor,
        rollouts: Rollouts,
        events: Recorder,
        projector_image: str,
        now: Callable[[], datetime],
    ) -> None:
        self._cluster = cluster
        self._cache = cache
        self._watches = watches
        self._rollouts = rollouts
        self._events = events
        self._projector_image = projector_image
        self._now = now
        self.acting_since: datetime | None = None
        """Set by whoever makes it act."""
        self.writes: Counter[str] = Counter()
        """How many objects of each kind were applied so far."""
        self._wrote: set[Key] = set()
        self._as_wanted: dict[Key, _Basis] = {}
        """Tenants whose children were as they should be, and what that was found from. See `_apply_children`."""
        self._refused: set[Key] = set()
        """Tenants whose own change could not be applied yet, though their status tells of it as observed."""
        self._failed: set[Key] = set()
        """Tenants whose children could not be applied at the last look, for a reason that may pass by itself."""
        self._turned_away: dict[Key, errors.ClusterError] = {}
        """Tenants that were refused though their pods had not to wait, and how. While they wait for another place this
        is told, and makes the look fail: otherwise the queue would forget its growing waits, and many that are refused
        would wake each other without a pause.
        """
        self._accepted: dict[tuple[Key, Kind], str] = {}
        """Children that still differ after they were applied, with a digest of that state. See `_apply_child`."""

    def take_over_rollouts(self) -> None:
        """Those that were begun before us count, too, unless they are of something that we want no more.

        (A tenant's own image is its own business.)
        """
        for key in self._cache.tenants():
            tenant = self._cache.get(OUTBOX_TENANT, *key)
            live = self._cache.get(DEPLOYMENT, key.namespace, child_name(key.name))
            if tenant and live and "image" not in tenant["spec"] and is_under_way(live):
                wanted = dict(manifests.children(tenant, image=self._projector_image, replicas=0))[DEPLOYMENT]
                if pod_hash(live) == pod_hash(wanted):
                    self._rollouts.found(key)

    async def reconcile(self, key: Key) -> float | None:
        """Returns after how many seconds another look is needed even if nothing happens, or None."""
        self._wrote.discard(key)
        tenant = self._cache.get(OUTBOX_TENANT, key.namespace, key.name)
        if tenant is None or "deletionTimestamp" in tenant["metadata"]:
            self._accepted = {k: v for k, v in self._accepted.items() if k[0] != key}
            self._as_wanted.pop(key, None)
            self._refused.discard(key)
            self._failed.discard(key)
            self._turned_away.pop(key, None)
            self._rollouts.end(key)
            return None
        failure: errors.ClusterError | None = None
        queued = False
        delivered_by = winner if (winner := self._cache.claims.winner(key)) != key else None
        replicas = manifests.wanted_replicas(tenant, delivered_by=delivered_by)
        own_change = key in self._refused or not conditions.is_observed(tenant)
        if not conditions.is_observed(tenant):
            self._turned_away.pop(key, None)
        try:
            queued = await self._apply_children(key, tenant, replicas, own_change=own_change)
            self._refused.discard(key)
            self._failed.discard(key)
            if queued and (refusal := self._turned_away.get(key)):
                failure = copy(refusal)
        except errors.ClusterError as error:
            if not isinstance(error, errors.REFUSALS) and key not in self._failed:
                self._failed.add(key)
                raise
            failure = error
            if own_change:
                self._refused.add(key)
        if failure is None and key in self._wrote and not conditions.is_told_of(tenant):
            return AGAIN_SECONDS
        deployment = self._cache.get(DEPLOYMENT, key.namespace, child_name(key.name), only=("metadata", "status"))
        seen = Observation(tenant, deployment, self._now(), failure, delivered_by, queued, self.acting_since)
        seconds = await self._apply_status(key, seen)
        if failure is not None:
            raise failure
        return AGAIN_SECONDS if key in self._wrote else seconds

    async def _apply_children(self, key: Key, tenant: Manifest, replicas: int, *, own_change: bool) -> bool:
        """Applies the children that differ; returns whether the pods have to wait.

        Most looks are for a report of the projector, which changes neither the spec nor a child: then there is nothing
        to compare, and such a look takes a tenth of the time.
        """
        basis = self._basis(key, tenant, replicas)
        if self._as_wanted.get(key) == basis:
            return False
        wanted, queued = self._wanted(key, tenant, replicas, own_change=own_change)
        if not queued:
            self._rollouts.leave(key)
        try:
            for kind, manifest in wanted.items():
                await self._apply_child(key, kind, manifest)
        except errors.REFUSALS as refusal:
            if not queued:
                self._turned_away[key] = copy(refusal)  # Without the frames that it came through.
                live = self._cache.get(DEPLOYMENT, key.namespace, child_name(key.name))
                if live is None or pod_hash(live) != pod_hash(wanted[DEPLOYMENT]):
                    self._rollouts.end(key)  # It has not begun, though the pods may be too few for the spec.
            raise
        if not queued:
            self._turned_away.pop(key, None)
        if not queued and key not in self._wrote:
            self._as_wanted[key] = basis
        return queued

    def _basis(self, key: Key, tenant: Manifest, replicas: int) -> _Basis:
        metadata, name = tenant["metadata"], child_name(key.name)
        versions = (self._cache.version(kind, key.namespace, name) for kind in CHILDREN)
        return metadata["uid"], metadata["generation"], replicas, *versions

    def _wanted(
        self, key: Key, tenant: Manifest, replicas: int, *, own_change: bool
    ) -> tuple[dict[Kind, Manifest], bool]:
        """The children as they are to be for now, and whether the pods wait, since those of many others are replaced.

        While they wait they keep their image, and all else is as the spec wants it.
        """
        wanted = dict(manifests.children(tenant, image=self._projector_image, replicas=replicas))
        live = self._cache.get(DEPLOYMENT, key.namespace, child_name(key.name))
        new = pod_hash(wanted[DEPLOYMENT])
        if live is None or pod_hash(live) == new:
            return wanted, False
        image = default_image(live) or self._projector_image
        kept = dict(manifests.children(tenant, image=image, replicas=replicas))
        # What of the difference is the tenant's own needs no place.
        old = pod_hash(kept[DEPLOYMENT] if own_change else live)
        free = old == new or replicas == 0 or not needs_a_place(live)
        if free or self._rollouts.begin(key):
            return wanted, False
        if pod_hash(kept[DEPLOYMENT]) != old:
            # This operator builds another pod, not only with another image; so what others have edited waits, too.
            del kept[DEPLOYMENT]
        return kept, True

    async def _apply_child(self, key: Key, kind: Kind, manifest: Manifest) -> None:
        """Applies a child if it differs.

        Something may change what we apply, such as an admission webhook that rewrites images. Then the child differs
        right after it was applied and always will; applying it for ever helps nobody. So that very state is accepted
        until either side of it changes.
        """
        live = self._cache.get(kind, key.namespace, manifest["metadata"]["name"])
        why = difference(manifest, live)
        if why is None or (live is not None and self._accepted.get((key, kind)) == _digest(manifest, live)):
            return
        logger.info("applying", key=str(key), kind=kind.kind, because=why)
        applied = await self._apply(key, kind, manifest, live)
        self._remember(key, kind, applied)
        self._accepted.pop((key, kind), None)
        if still := difference(manifest, applied):
            logger.warning("accepting a difference that stays", key=str(key), kind=kind.kind, difference=still)
            self._accepted[key, kind] = _digest(manifest, applied)

    async def _apply(self, key: Key, kind: Kind, manifest: Manifest, live: Manifest | None) -> Manifest:
        """Takes back fields of our own objects by force, but never takes over somebody else's object.

        By force we get our fields, and others keep theirs. Where there may be one of both only (minAvailable beside our
        maxUnavailable, valueFrom beside our value) that is refused, and no apply could ever help; so theirs have to go.
        """
        try:
            return await self._cluster.apply(kind, manifest, force=live is not None)
        except errors.Conflict as conflict:
            # Not known to be ours, and another manager has fields of it: only a read can tell whose it is.
            live = await self._cluster.get(kind, key.namespace, manifest["metadata"]["name"])
            if not _has_the_same_controller(manifest, live):
                raise errors.Conflict(
                    f"{kind.kind} {manifest['metadata']['name']} exists and belongs to somebody else; "
                    f"delete or rename it, or give the OutboxTenant another name"
                ) from conflict
            return await self._cluster.apply(kind, manifest, force=True)
        except errors.Invalid as refusal:
            if live is None or "spec" not in manifest or not _has_the_same_controller(manifest, live):
                raise
            logger.info("replacing", key=str(key), kind=kind.kind, because=str(refusal))
            return await self._cluster.replace(kind, manifest)

    def _remember(self, key: Key, kind: Kind, applied: Manifest) -> None:
        """Takes in the answer to a write of our own.

        It may contain what somebody else wrote a moment before, which this look has not considered, and whose event
        will be no news any more. So a look that wrote is followed by another.
        """
        self._wrote.add(key)
        self.writes[kind.kind] += 1
        if self._cache.put(kind, applied):
            self._watches.expect(kind, applied)

    async def _apply_status(self, key: Key, seen: Observation) -> float | None:
        tenant, outcome = seen.tenant, conditions.evaluate(seen)
        # After a failure that may pass by itself the place is kept: to free it would send the next one into the same.
        may_pass = seen.failure is not None and not isinstance(seen.failure, errors.REFUSALS)
        if outcome.rolled_out and not seen.queued and not may_pass:
            self._rollouts.end(key)
        if not conditions.is_current(tenant, outcome.status):
            ready = outcome.status["conditions"][0]
            logger.info("status", key=str(key), ready=ready["status"], reason=ready["reason"], because=ready["message"])
            try:
                applied = await self._cluster.apply_status(conditions.status_manifest(tenant, outcome.status))
            except errors.NotFound:
                return None  # Deleted meanwhile; its event is on the way.
            self._remember(key, OUTBOX_TENANT, applied)
            for what in news(conditions.by_type(tenant.get("status", {})), conditions.by_type(outcome.status)):
                await self._events.record(tenant, what)
        return (outcome.look_again - seen.now).total_seconds() if outcome.look_again else None


def _has_the_same_controller(manifest: Manifest, live: Manifest) -> bool:
    controller = controller_of(live)
    return controller is not None and controller["uid"] == manifest["metadata"]["ownerReferences"][0]["uid"]


def _digest(manifest: Manifest, live: Manifest) -> str:
    """Changes with what we want and with every change of the live object, but not with its status and its version."""
    changing = ("resourceVersion", "generation", "managedFields")
    metadata = {name: value for name, value in live["metadata"].items() if name not in changing}
    compared = [manifest, live | {"metadata": metadata, "status": None}]
    return hashlib.sha256(msgspec.json.encode(compared, order="sorted")).hexdigest()
