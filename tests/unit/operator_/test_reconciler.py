"""One look at a time, against a cluster in memory with the real semantics of server-side apply."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox_operator import manifests
from outbox_operator.cache import Cache
from outbox_operator.errors import Conflict, Forbidden, NotFound, Rejected, Unreachable
from outbox_operator.events import Recorder
from outbox_operator.keys import (
    CHILDREN,
    DEPLOYMENT,
    EVENT,
    OUTBOX_TENANT,
    POD_DISRUPTION_BUDGET,
    ROLE,
    SERVICE_ACCOUNT,
    WATCHED,
    Key,
    Kind,
)
from outbox_operator.reconciler import AGAIN_SECONDS, Reconciler
from outbox_operator.rollouts import Rollouts
from outbox_operator.testing import InMemoryCluster, ManualClock
from outbox_operator.watching import WatchMonitor

Manifest = dict[str, Any]
Build = Callable[..., Manifest]

KEY = Key("shop", "acme")
CHILD = "acme-projector"
ALWAYS = [kind for kind in CHILDREN if kind != POD_DISRUPTION_BUDGET]
EVERYTHING = [f"{kind.kind} {CHILD}" for kind in ALWAYS]


class World:
    """A cluster, the operator's view of it, and a clock."""

    def __init__(self) -> None:
        self.cluster = InMemoryCluster()
        self.cache = Cache()
        self.now = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
        self.cluster.listeners.append(self.watch)
        self.woken: list[Key] = []
        self.reconciler = self.new_reconciler()

    def new_reconciler(self, image: str = "image:1") -> Reconciler:
        self.rollouts = Rollouts(1, wake=self.woken.append)
        return Reconciler(
            cluster=self.cluster,
            cache=self.cache,
            watches=WatchMonitor(ManualClock()),
            rollouts=self.rollouts,
            events=Recorder(self.cluster, now=lambda: self.now),
            projector_image=image,
            now=lambda: self.now,
        )

    async def restart(self, image: str = "image:1") -> None:
        """A new process: it knows nothing but what it lists."""
        self.cache = Cache()
        self.reconciler = self.new_reconciler(image)
        for kind in WATCHED:
            with self.cache.listing(kind) as listing:
                async for obj in self.cluster.list(kind, None):
                    listing.add(obj)
        self.reconciler.take_over_rollouts()

    def watch(self, event: str, kind: Kind, obj: Manifest) -> None:
        if event == "DELETED":
            self.cache.forget(kind, obj)
        else:
            self.cache.put(kind, obj)

    async def look(self, key: Key = KEY) -> list[str]:
        """One look; returns what it wrote, Events aside."""
        before = len(self.cluster.writes)
        await self.reconciler.reconcile(key)
        return [what for what in self.cluster.writes[before:] if not what.startswith("Event ")]

    async def settle(self, key: Key = KEY) -> None:
        """Looks until there is nothing more to write."""
        while await self.look(key):
            pass

    def events(self) -> list[Manifest]:
        names = dict.fromkeys(what for what in self.cluster.writes if what.startswith("Event "))
        return [self.read(EVENT, what.removeprefix("Event ")) for what in names]

    def read(self, kind: Kind, name: str = CHILD) -> Manifest:
        return self.cluster.read(kind, "shop", name)

    def edit(self, kind: Kind, manager: str = "kubectl", **changes: Any) -> None:
        target = {"namespace": "shop", "name": "acme" if kind == OUTBOX_TENANT else CHILD}
        self.cluster.create(kind, {"metadata": target | changes.pop("metadata", {}), **changes}, manager=manager)

    def report(self, kind: Kind, status: Manifest, manager: str) -> None:
        name = "acme" if kind == OUTBOX_TENANT else CHILD
        self.cluster.report(
            {"metadata": {"namespace": "shop", "name": name}, "status": status}, manager=manager, kind=kind
        )

    def ready(self) -> str:
        return next(
            c["reason"] for c in self.read(OUTBOX_TENANT, "acme")["status"]["conditions"] if c["type"] == "Ready"
        )


@pytest.fixture
def world(tenant: Build) -> World:
    world = World()
    manifest = tenant()
    for server_side in ("uid", "creationTimestamp", "resourceVersion", "generation"):
        del manifest["metadata"][server_side]
    world.cluster.create(OUTBOX_TENANT, manifest)
    return world


async def test_the_first_look_creates_everything_in_order(world: World) -> None:
    assert await world.look() == EVERYTHING
    assert world.read(DEPLOYMENT)["spec"]["replicas"] == 1


async def test_the_status_of_a_new_tenant_comes_with_the_second_look_and_then_nothing_is_written(world: World) -> None:
    await world.look()
    assert await world.look() == ["OutboxTenant acme"]
    assert world.ready() == "Starting"
    assert await world.look() == []


async def test_a_look_reads_nothing_from_the_api_server(world: World) -> None:
    await world.settle()
    assert [verb for verb, _ in world.cluster.requests if verb == "get"] == []


async def test_a_look_for_a_report_compares_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of projectors report once a minute: what is known to be as it should be is not built and compared."""
    await world.settle()
    built: list[str] = []
    children = manifests.children

    def counted(tenant: Manifest, **how: Any) -> Any:
        built.append(tenant["metadata"]["name"])
        return children(tenant, **how)

    monkeypatch.setattr(manifests, "children", counted)
    world.report(OUTBOX_TENANT, {"projector": {"pending": 1}}, "outbox-projector")
    assert await world.look() == []
    assert built == []
    world.edit(ROLE, rules=[])
    assert await world.look() == [f"Role {CHILD}"]
    assert built == ["acme"]


async def test_a_tenant_that_was_made_anew_is_compared_anew(world: World) -> None:
    await world.settle()
    tenant = world.read(OUTBOX_TENANT, "acme")
    world.cluster.delete(OUTBOX_TENANT, "shop", "acme")
    world.cluster.create(OUTBOX_TENANT, {**tenant, "metadata": {"namespace": "shop", "name": "acme"}})
    assert f"Deployment {CHILD}" in await world.look()
    uid = world.read(OUTBOX_TENANT, "acme")["metadata"]["uid"]
    assert [reference["uid"] for reference in world.read(DEPLOYMENT)["metadata"]["ownerReferences"]][-1] == uid


async def test_a_restart_writes_nothing(world: World) -> None:
    await world.settle()
    await world.restart()
    assert await world.look() == []


async def test_a_changed_spec_reaches_only_what_depends_on_it(world: World) -> None:
    await world.settle()
    world.edit(OUTBOX_TENANT, spec={"replicas": 3})
    assert await world.look() == [f"Deployment {CHILD}", f"PodDisruptionBudget {CHILD}", "OutboxTenant acme"]
    assert world.read(DEPLOYMENT)["spec"]["replicas"] == 3


async def test_a_disruption_budget_stays_when_one_pod_is_left(world: World) -> None:
    world.edit(OUTBOX_TENANT, spec={"replicas": 2})
    await world.settle()
    world.edit(OUTBOX_TENANT, spec={"replicas": 1})
    assert await world.look() == [f"Deployment {CHILD}", "OutboxTenant acme"]
    assert world.read(POD_DISRUPTION_BUDGET)["spec"]["maxUnavailable"] == 1


async def test_what_an_autoscaler_sends_is_followed(world: World) -> None:
    """HorizontalPodAutoscaler and KEDA write spec.replicas by the scale subresource, and nothing else."""
    await world.settle()
    for replicas in (3, 10, 1, 0, 2):
        world.edit(OUTBOX_TENANT, "kube-controller-manager", spec={"replicas": replicas})
        await world.look()
        assert world.read(DEPLOYMENT)["spec"]["replicas"] == replicas
        assert await world.look() == []
    assert world.read(OUTBOX_TENANT, "acme")["status"]["selector"] == "outbox.bento.dev/outboxtenant=acme"


async def test_a_field_that_is_no_longer_wanted_goes_away(world: World) -> None:
    await world.settle()
    tenant = world.read(OUTBOX_TENANT, "acme")
    tenant["spec"]["resources"] = {"requests": {"cpu": "1"}}
    world.cluster.create(OUTBOX_TENANT, tenant, replace=True)
    assert await world.look() == [f"Deployment {CHILD}", "OutboxTenant acme"]
    assert container(world.read(DEPLOYMENT)["spec"])["resources"] == {"requests": {"cpu": "1"}}


@pytest.mark.parametrize("kind", ALWAYS, ids=lambda kind: kind.kind)
async def test_a_deleted_child_comes_back(world: World, kind: Kind) -> None:
    await world.settle()
    world.cluster.delete(kind, "shop", CHILD)
    assert await world.look() == [f"{kind.kind} {CHILD}"]
    assert await world.look() == []


async def test_an_edited_child_is_repaired(world: World) -> None:
    await world.settle()
    world.edit(DEPLOYMENT, spec={"replicas": 7})
    world.edit(ROLE, rules=[{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}])
    assert await world.look() == [f"Role {CHILD}", f"Deployment {CHILD}"]
    assert world.read(DEPLOYMENT)["spec"]["replicas"] == 1
    assert world.read(ROLE)["rules"][0]["resources"] == ["outboxtenants/status"]
    assert await world.look() == []


def one_pod_at_least(spec: Manifest) -> None:
    del spec["maxUnavailable"]
    spec["minAvailable"] = 1


def variable_from_elsewhere(spec: Manifest) -> None:
    variable = container(spec)["env"][0]
    del variable["value"]
    variable["valueFrom"] = {"configMapKeyRef": {"name": "settings", "key": "tenant"}}


def another_probe(spec: Manifest) -> None:
    container(spec)["readinessProbe"] = {"tcpSocket": {"port": 8080}}


def container(spec: Manifest) -> Manifest:
    found: Manifest = spec["template"]["spec"]["containers"][0]
    return found


EDITS_THAT_EXCLUDE_OURS = [
    (POD_DISRUPTION_BUDGET, one_pod_at_least),
    (DEPLOYMENT, variable_from_elsewhere),
    (DEPLOYMENT, another_probe),
]


@pytest.mark.parametrize(("kind", "edit"), EDITS_THAT_EXCLUDE_OURS, ids=lambda value: getattr(value, "__name__", None))
async def test_what_excludes_a_field_of_ours_is_repaired(
    world: World, kind: Kind, edit: Callable[[Manifest], None]
) -> None:
    """To apply ours gives the API server both of them, which it refuses."""
    world.edit(OUTBOX_TENANT, spec={"replicas": 2})
    await world.settle()
    wanted = world.read(kind)["spec"]
    edited = world.read(kind)
    edit(edited["spec"])
    world.cluster.create(kind, edited, replace=True)
    assert set(await world.look()) == {f"{kind.kind} {CHILD}"}
    assert world.read(kind)["spec"] == wanted
    assert await world.look() == []


async def test_what_excludes_a_field_of_ours_does_not_stand_in_the_way_of_a_pause(world: World) -> None:
    await world.settle()
    edited = world.read(DEPLOYMENT)
    variable_from_elsewhere(edited["spec"])
    world.cluster.create(DEPLOYMENT, edited, replace=True)
    world.edit(OUTBOX_TENANT, spec={"state": "Paused"})
    await world.settle()
    assert world.read(DEPLOYMENT)["spec"]["replicas"] == 0
    assert world.ready() == "Paused"


async def test_somebody_elses_object_is_not_replaced(world: World) -> None:
    """Labelled like ours, but controlled by another OutboxTenant, and so it is known."""
    await world.settle()
    edited = world.read(DEPLOYMENT)
    edited["metadata"]["ownerReferences"] = [{**edited["metadata"]["ownerReferences"][0], "uid": "another"}]
    variable_from_elsewhere(edited["spec"])
    world.cluster.delete(DEPLOYMENT, "shop", CHILD)
    world.cluster.create(DEPLOYMENT, edited)
    with pytest.raises(Rejected):
        await world.look()
    assert "replace" not in [verb for verb, _ in world.cluster.requests]


async def test_what_others_add_stays_when_a_webhook_denies_a_change(world: World) -> None:
    """Which is a 400, where the webhook names no code: nothing of theirs excludes a field of ours."""
    await world.settle()
    world.edit(OUTBOX_TENANT, spec={"replicas": 2})
    world.cluster.refusals[DEPLOYMENT] = Rejected('admission webhook "policy.example.com" denied the request')
    with pytest.raises(Rejected):
        await world.look()
    assert "replace" not in [verb for verb, _ in world.cluster.requests]


async def test_what_others_add_stays(world: World) -> None:
    await world.settle()
    restarted = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    world.edit(DEPLOYMENT, spec={"template": restarted})
    assert await world.look() == []
    world.edit(OUTBOX_TENANT, spec={"replicas": 2})
    await world.settle()
    template = world.read(DEPLOYMENT)["spec"]["template"]
    assert template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] == "now"


async def test_status_follows_the_pods_and_the_projector(world: World) -> None:
    await world.settle()
    world.report(
        DEPLOYMENT,
        {
            "observedGeneration": 1,
            "replicas": 1,
            "updatedReplicas": 1,
            "readyReplicas": 1,
            "availableReplicas": 1,
            "conditions": [
                {"type": "Available", "status": "True", "reason": "", "lastTransitionTime": "2026-03-01T12:00:00Z"},
                {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
            ],
        },
        "kube-controller-manager",
    )
    assert await world.look() == ["OutboxTenant acme"]
    assert world.ready() == "Starting"
    connected = {"status": "True", "reason": "Connected", "message": "", "lastTransitionTime": "2026-03-01T12:00:00Z"}
    world.report(
        OUTBOX_TENANT,
        {
            "projector": {"pending": 5, "reportedTime": "2026-03-01T12:00:00Z"},
            "conditions": [{"type": "DatabaseReachable", **connected}, {"type": "BrokerReachable", **connected}],
        },
        "outbox-projector",
    )
    assert await world.look() == ["OutboxTenant acme"]
    assert world.ready() == "Delivering"
    status = world.read(OUTBOX_TENANT, "acme")["status"]
    assert status["projector"]["pending"] == 5
    assert len(status["conditions"]) == 5


async def test_silence_is_noticed_when_the_look_it_asked_for_comes(world: World) -> None:
    await test_status_follows_the_pods_and_the_projector(world)
    seconds = await world.reconciler.reconcile(KEY)
    assert seconds == 3 * 180
    world.now += timedelta(seconds=seconds)
    assert await world.look() == ["OutboxTenant acme"]
    assert world.ready() == "NotReporting"


async def test_of_two_for_the_same_rows_the_older_delivers(world: World) -> None:
    await world.settle()
    younger = world.read(OUTBOX_TENANT, "acme")
    younger["metadata"] = {"namespace": "shop", "name": "twin"}
    world.cluster.create(OUTBOX_TENANT, younger)
    await world.settle(Key("shop", "twin"))
    assert world.read(DEPLOYMENT, "twin-projector")["spec"]["replicas"] == 0
    twin = world.read(OUTBOX_TENANT, "twin")["status"]
    assert twin["conditions"][0]["reason"] == "TenantConflict"
    assert "OutboxTenant acme, which is older" in twin["conditions"][0]["message"]
    # Perhaps it is paused; then nobody delivers.
    assert "up to that one, also while it runs no pods" in twin["conditions"][0]["message"]
    assert await world.look() == []
    world.cluster.delete(OUTBOX_TENANT, "shop", "acme")
    await world.settle(Key("shop", "twin"))
    assert world.read(DEPLOYMENT, "twin-projector")["spec"]["replicas"] == 1


async def test_a_deleted_tenant_is_left_to_the_garbage_collector(world: World) -> None:
    await world.settle()
    world.cluster.delete(OUTBOX_TENANT, "shop", "acme")
    assert await world.look() == []


async def test_a_tenant_that_is_being_deleted_gets_no_children(world: World) -> None:
    world.edit(OUTBOX_TENANT, metadata={"deletionTimestamp": "2026-03-01T12:00:00Z"})
    assert await world.look() == []


@pytest.mark.parametrize(
    "error",
    [Rejected("spec.image: Required value"), Forbidden("exceeded quota: deployments")],
    ids=lambda error: type(error).__name__,
)
async def test_a_refusal_is_shown_and_tried_again(world: World, error: Exception) -> None:
    world.cluster.refusals[DEPLOYMENT] = error  # type: ignore[assignment]
    with pytest.raises(type(error)):
        await world.look()
    ready = world.read(OUTBOX_TENANT, "acme")["status"]["conditions"][0]
    assert ready["reason"] == "ApplyFailed"
    assert str(error) in ready["message"]
    del world.cluster.refusals[DEPLOYMENT]
    await world.settle()
    assert world.ready() == "Starting"


async def test_an_unreachable_api_server_says_nothing_about_the_tenant(world: World) -> None:
    world.cluster.refusals |= {DEPLOYMENT: Unreachable("timeout"), OUTBOX_TENANT: Unreachable("timeout")}
    for _ in range(3):
        with pytest.raises(Unreachable):
            await world.look()
    assert "status" not in world.read(OUTBOX_TENANT, "acme")


async def test_what_fails_for_a_moment_is_not_told(world: World) -> None:
    world.cluster.refusals[DEPLOYMENT] = Unreachable("etcdserver: leader changed")
    with pytest.raises(Unreachable):
        await world.look()
    del world.cluster.refusals[DEPLOYMENT]
    await world.settle()
    assert [event["reason"] for event in world.events()] == []
    assert world.ready() == "Starting"


@pytest.mark.parametrize(
    "error",
    [Unreachable('failed calling webhook "policy.example.com": connection refused'), NotFound("no such kind")],
    ids=lambda error: type(error).__name__,
)
async def test_what_fails_again_while_the_api_server_takes_the_status_is_told(world: World, error: Exception) -> None:
    """Such as every write of a Deployment, while a webhook is away that has to admit it."""
    await test_status_follows_the_pods_and_the_projector(world)
    world.cluster.delete(DEPLOYMENT, "shop", CHILD)
    world.cluster.refusals[DEPLOYMENT] = error  # type: ignore[assignment]
    for said in ("Delivering", "ApplyFailed"):
        with pytest.raises(type(error)):
            await world.look()
        assert world.ready() == said
    ready = world.read(OUTBOX_TENANT, "acme")["status"]["conditions"][0]
    assert str(error) in ready["message"]
    del world.cluster.refusals[DEPLOYMENT]
    await world.settle()
    assert world.ready() == "Starting"


async def test_somebody_elses_object_is_not_taken_over(world: World) -> None:
    foreign = {"namespace": "shop", "name": CHILD}
    world.cluster.create(SERVICE_ACCOUNT, {"metadata": foreign, "automountServiceAccountToken": True})
    world.cache.forget(SERVICE_ACCOUNT, world.read(SERVICE_ACCOUNT))  # Without our label, no watch shows it.
    with pytest.raises(Conflict, match="belongs to somebody else"):
        await world.look()
    assert world.read(SERVICE_ACCOUNT)["automountServiceAccountToken"] is True
    assert world.ready() == "ApplyFailed"


async def test_a_child_whose_label_was_changed_is_still_ours(world: World) -> None:
    await world.settle()
    world.edit(DEPLOYMENT, metadata={"labels": {"outbox.bento.dev/outboxtenant": "other"}})
    world.cache.forget(DEPLOYMENT, world.read(DEPLOYMENT))
    assert await world.look() == [f"Deployment {CHILD}"] * 2  # Refused without force, then with force.
    assert world.read(DEPLOYMENT)["metadata"]["labels"]["outbox.bento.dev/outboxtenant"] == "acme"


async def test_what_a_webhook_insists_on_is_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    apply = world.cluster.apply

    async def through_a_webhook(kind: Kind, manifest: Manifest, *, force: bool) -> Manifest:
        applied = await apply(kind, manifest, force=force)
        if kind == DEPLOYMENT:
            mirrored = {"name": "projector", "image": "mirror/image:1"}
            world.edit(DEPLOYMENT, "webhook", spec={"template": {"spec": {"containers": [mirrored]}}})
            return world.read(DEPLOYMENT)
        return applied

    monkeypatch.setattr(world.cluster, "apply", through_a_webhook)
    await world.settle()
    assert await world.look() == []
    world.edit(DEPLOYMENT, spec={"replicas": 9})
    assert await world.look() == [f"Deployment {CHILD}"]
    assert world.read(DEPLOYMENT)["spec"]["replicas"] == 1


async def test_a_tenant_that_vanishes_during_a_look_is_no_failure(world: World) -> None:
    await world.look()  # its pods; the next one is about its status
    world.cluster.refusals[OUTBOX_TENANT] = NotFound("gone")

    assert await world.reconciler.reconcile(KEY) is None
    assert ("apply_status", f"OutboxTenant {KEY.name}") in world.cluster.requests


def test_the_order_of_watched_kinds_begins_with_the_tenant() -> None:
    assert WATCHED[0] == OUTBOX_TENANT


def all_pods_run(world: World, name: str) -> None:
    """What the controllers of Kubernetes do about a Deployment."""
    generation = world.read(DEPLOYMENT, f"{name}-projector")["metadata"]["generation"]
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
    target = {"metadata": {"namespace": "shop", "name": f"{name}-projector"}}
    status = {"observedGeneration": generation, **counts}
    world.cluster.report({**target, "status": status}, manager="kube-controller-manager", kind=DEPLOYMENT)


async def two_that_run(world: World) -> list[Key]:
    other = world.read(OUTBOX_TENANT, "acme")
    other["metadata"] = {"namespace": "shop", "name": "globex"}
    other["spec"]["tenantId"] = "globex"
    world.cluster.create(OUTBOX_TENANT, other)
    keys = [KEY, Key("shop", "globex")]
    for key in keys:
        await world.look(key)
        all_pods_run(world, key.name)
        await world.look(key)
    return keys


def progressing(world: World, name: str) -> str:
    conditions = world.read(OUTBOX_TENANT, name)["status"]["conditions"]
    return next(str(condition["reason"]) for condition in conditions if condition["type"] == "Progressing")


def image_of(world: World, name: str) -> str:
    return str(container(world.read(DEPLOYMENT, f"{name}-projector")["spec"])["image"])


async def test_another_image_reaches_so_many_tenants_at_a_time(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    assert await world.look(second) == ["OutboxTenant globex"]
    assert (image_of(world, "acme"), image_of(world, "globex")) == ("image:2", "image:1")
    progressing = world.read(OUTBOX_TENANT, "globex")["status"]["conditions"][1]
    assert (progressing["status"], progressing["reason"]) == ("True", "RolloutQueued")
    assert await world.look(second) == []
    all_pods_run(world, "acme")
    await world.look(first)
    assert world.woken == [second]
    await world.look(second)
    assert image_of(world, "globex") == "image:2"


async def test_an_image_that_does_not_start_stops_there(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("broken")
    await world.look(first)
    world.report(DEPLOYMENT, {"conditions": [{"type": "Progressing", "status": "False"}]}, "kube-controller-manager")
    await world.look(first)
    await world.look(second)
    assert (world.woken, image_of(world, "globex")) == ([], "image:1")


def changed(world: World, name: str, **spec: Any) -> None:
    """Somebody changes the spec of a tenant."""
    world.cluster.create(OUTBOX_TENANT, {"metadata": {"namespace": "shop", "name": name}, "spec": spec})


def batch_size_of(world: World, name: str) -> str:
    variables = container(world.read(DEPLOYMENT, f"{name}-projector")["spec"])["env"]
    return next(str(variable["value"]) for variable in variables if variable["name"] == "OUTBOX_BATCH_SIZE")


async def test_a_tenants_own_change_is_not_held_back_but_the_image_is(world: World) -> None:
    """Otherwise an image that does not start would reach every tenant that an autoscaler scales."""
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    changed(world, "globex", delivery={"batchSize": 7}, replicas=3)
    await world.look(second)
    assert (image_of(world, "globex"), batch_size_of(world, "globex")) == ("image:1", "7")
    assert world.read(DEPLOYMENT, "globex-projector")["spec"]["replicas"] == 3
    assert await world.look(second) == []
    all_pods_run(world, "acme")
    await world.look(first)
    assert world.woken == [second]
    await world.look(second)
    assert (image_of(world, "globex"), batch_size_of(world, "globex")) == ("image:2", "7")


@pytest.mark.parametrize("failure", [Forbidden("exceeded quota"), Unreachable("failed calling webhook")], ids=str)
async def test_a_tenants_own_change_is_not_held_back_after_it_failed(world: World, failure: Exception) -> None:
    """The status tells of the failure, and so of that generation."""
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    changed(world, "globex", delivery={"batchSize": 7})
    world.cluster.refusals[DEPLOYMENT] = failure  # type: ignore[assignment]
    for _ in range(2):
        with pytest.raises(type(failure)):
            await world.look(second)
    del world.cluster.refusals[DEPLOYMENT]
    await world.look(second)
    assert (image_of(world, "globex"), batch_size_of(world, "globex")) == ("image:1", "7")


async def test_a_tenants_own_change_takes_no_place(world: World) -> None:
    for key in await two_that_run(world):
        changed(world, key.name, delivery={"batchSize": 7})
        await world.look(key)
        assert batch_size_of(world, key.name) == "7"


async def test_a_tenants_own_image_is_not_held_back(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    changed(world, "globex", image="its-own:1")
    await world.look(second)
    assert image_of(world, "globex") == "its-own:1"
    tenant = world.read(OUTBOX_TENANT, "globex")
    del tenant["spec"]["image"]
    world.cluster.create(OUTBOX_TENANT, tenant, replace=True)
    await world.look(second)
    assert image_of(world, "globex") == "image:2"


async def test_a_deployment_that_waits_is_repaired_all_the_same(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    await world.look(second)
    edited = world.read(DEPLOYMENT, "globex-projector")
    edited["spec"]["replicas"] = 7
    container(edited["spec"])["image"] = "evil:1"
    world.cluster.create(DEPLOYMENT, edited)
    assert await world.look(second) == ["Deployment globex-projector"]
    assert world.read(DEPLOYMENT, "globex-projector")["spec"]["replicas"] == 1
    assert image_of(world, "globex") == "image:1"


async def test_an_operator_that_builds_another_pod_reaches_so_many_tenants_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await two_that_run(world)
    monkeypatch.setattr("outbox_operator.pod.TERMINATION_GRACE_SECONDS", 99)
    world.reconciler = world.new_reconciler()
    assert f"Deployment {CHILD}" in await world.look(first)
    assert await world.look(second) == ["OutboxTenant globex"]


async def test_who_is_to_run_no_pods_waits_for_no_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = await two_that_run(world)
    monkeypatch.setattr("outbox_operator.pod.TERMINATION_GRACE_SECONDS", 99)
    world.reconciler = world.new_reconciler()
    await world.look(first)
    await world.look(second)
    changed(world, "acme", tenantId="globex")
    await world.look(second)
    assert world.read(OUTBOX_TENANT, "globex")["status"]["conditions"][0]["reason"] == "TenantConflict"
    assert world.read(DEPLOYMENT, "globex-projector")["spec"]["replicas"] == 0


async def test_an_image_that_was_refused_reaches_so_many_tenants_at_a_time_all_the_same(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    world.cluster.refusals[DEPLOYMENT] = Forbidden("not from this registry")
    for key in (first, second):
        with pytest.raises(Forbidden):
            await world.look(key)
    del world.cluster.refusals[DEPLOYMENT]
    await world.look(first)
    with pytest.raises(Forbidden):  # Of the look before, since there is no place.
        await world.look(second)
    assert (image_of(world, "acme"), image_of(world, "globex")) == ("image:2", "image:1")


async def test_who_fails_for_a_reason_that_may_pass_keeps_its_place(world: World) -> None:
    """Otherwise, while a webhook is away, all that wait would try and fail in turn, without a pause and without end."""
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    world.cluster.refusals[DEPLOYMENT] = Unreachable("failed calling webhook")
    for said in ("Stable", "ApplyFailed"):
        with pytest.raises(Unreachable):
            await world.look(first)
        await world.look(second)
        assert progressing(world, "acme") == said
        assert progressing(world, "globex") == "RolloutQueued"
    assert world.woken == []


async def test_who_was_refused_fails_while_it_waits_for_another_place(world: World) -> None:
    """Otherwise all that are refused would call each other, without a pause and without end."""
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    world.cluster.refusals[DEPLOYMENT] = Forbidden("exceeded quota")
    with pytest.raises(Forbidden):
        await world.look(first)
    del world.cluster.refusals[DEPLOYMENT]
    await world.look(second)
    with pytest.raises(Forbidden):  # Of the look before; so the queue waits for longer.
        await world.look(first)
    assert (image_of(world, "acme"), image_of(world, "globex")) == ("image:1", "image:2")
    assert progressing(world, "acme") == "ApplyFailed"
    all_pods_run(world, "globex")
    await world.look(second)
    assert world.woken == [first]
    await world.look(first)
    assert image_of(world, "acme") == "image:2"


async def test_who_is_refused_gives_its_place_back_whatever_else_it_changes(world: World) -> None:
    """Its pods are not as many as it wants now, and never will be, though nothing of them is being replaced."""
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    changed(world, "acme", replicas=3)
    world.cluster.refusals[DEPLOYMENT] = Forbidden("exceeded quota")
    with pytest.raises(Forbidden):
        await world.look(first)
    del world.cluster.refusals[DEPLOYMENT]
    await world.look(second)
    assert image_of(world, "globex") == "image:2"


async def test_a_refusal_amid_a_rollout_gives_no_place_back(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    world.edit(ROLE, rules=[])
    world.cluster.refusals[ROLE] = Forbidden("no")
    with pytest.raises(Forbidden):
        await world.look(first)
    await world.look(second)
    assert image_of(world, "globex") == "image:1"


async def test_another_spec_after_a_refusal_waits_like_any_other(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    world.cluster.refusals[DEPLOYMENT] = Forbidden("exceeded quota")
    with pytest.raises(Forbidden):
        await world.look(first)
    del world.cluster.refusals[DEPLOYMENT]
    await world.look(second)
    changed(world, "acme", delivery={"batchSize": 7})
    await world.look(first)
    assert (image_of(world, "acme"), batch_size_of(world, "acme")) == ("image:1", "7")
    assert progressing(world, "acme") == "RolloutQueued"


async def test_a_rollout_that_another_process_has_begun_keeps_its_place(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    await world.restart("image:2")
    await world.look(second)
    assert image_of(world, "globex") == "image:1"
    all_pods_run(world, "acme")
    await world.look(first)
    assert world.woken == [second]


async def test_a_rollout_that_failed_before_holds_up_no_other(world: World) -> None:
    """Its own change does not start, and the old pod delivers: it would keep its place for ever."""
    first, second = await two_that_run(world)
    target = {"namespace": "shop", "name": "acme"}
    world.cluster.create(OUTBOX_TENANT, {"metadata": target, "spec": {"resources": {"requests": {"cpu": "1000"}}}})
    await world.look(first)
    counts = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
    failed = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    generation = world.read(DEPLOYMENT)["metadata"]["generation"]
    status = {"observedGeneration": generation, **counts, "conditions": [failed]}
    world.report(DEPLOYMENT, status, "kube-controller-manager")
    await world.look(first)
    await world.restart("image:2")
    await world.look(first)
    await world.look(second)
    assert (image_of(world, "acme"), image_of(world, "globex")) == ("image:2", "image:2")


async def test_a_tenant_without_running_pods_has_nothing_to_lose(world: World) -> None:
    first, second = await two_that_run(world)
    world.report(DEPLOYMENT, {"readyReplicas": 0}, "kube-controller-manager")
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    await world.look(second)
    assert (image_of(world, "acme"), image_of(world, "globex")) == ("image:2", "image:2")


async def test_a_waiting_tenant_that_is_deleted_leaves_the_queue(world: World) -> None:
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    await world.look(second)
    world.cluster.delete(OUTBOX_TENANT, "shop", "globex")
    await world.look(second)
    all_pods_run(world, "acme")
    await world.look(first)
    assert world.woken == []


def its_own_image(world: World) -> None:
    changed(world, "globex", image="its-own:1")


def no_pod_is_ready(world: World) -> None:
    name = {"namespace": "shop", "name": "globex-projector"}
    world.cluster.report({"metadata": name, "status": {"readyReplicas": 0}}, manager="kubelet", kind=DEPLOYMENT)


def no_deployment(world: World) -> None:
    world.cluster.delete(DEPLOYMENT, "shop", "globex-projector")


@pytest.mark.parametrize("happens", [its_own_image, no_pod_is_ready, no_deployment], ids=lambda it: it.__name__)
async def test_who_goes_on_without_a_place_waits_no_more(world: World, happens: Callable[[World], None]) -> None:
    """It would be woken instead of one that does wait."""
    first, second = await two_that_run(world)
    world.reconciler = world.new_reconciler("image:2")
    await world.look(first)
    await world.look(second)
    assert world.rollouts.count() == (1, 1)
    happens(world)
    await world.look(second)
    assert world.rollouts.count() == (1, 0)


async def test_what_changes_is_an_event_and_what_begins_is_none(world: World) -> None:
    await world.settle()
    world.edit(OUTBOX_TENANT, spec={"state": "Paused"})
    await world.settle()
    (event,) = world.events()
    assert (event["type"], event["reason"], event["count"]) == ("Normal", "Paused", 1)
    assert event["involvedObject"]["name"] == "acme"


async def test_an_event_that_is_refused_holds_nothing_up(world: World) -> None:
    await world.settle()
    world.cluster.refusals[EVENT] = Forbidden("exceeded quota: events")
    world.edit(OUTBOX_TENANT, spec={"state": "Paused"})
    await world.settle()
    assert world.ready() == "Paused"


async def test_what_others_wrote_beneath_our_own_write_is_seen_by_another_look(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.look()
    apply_status = world.cluster.apply_status

    async def just_after_an_edit(manifest: Manifest) -> Manifest:
        world.cluster.listeners.clear()  # The watch is slower than the answer, which makes its event no news.
        world.edit(OUTBOX_TENANT, spec={"delivery": {"batchSize": 7}})
        return await apply_status(manifest)

    monkeypatch.setattr(world.cluster, "apply_status", just_after_an_edit)
    assert await world.reconciler.reconcile(KEY) == AGAIN_SECONDS
    monkeypatch.undo()
    assert f"Deployment {CHILD}" in await world.look()
