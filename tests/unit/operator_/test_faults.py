"""The whole operator, kopf included, against an API server that fails as real ones do. It goes on by itself, or it ends
with the reason; what happened meanwhile is made up for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer, unused_port
from kubernetes.aio import client

from outbox_operator import handlers
from outbox_operator.cluster import KubernetesCluster, credentials
from outbox_operator.election import LeadershipLost
from outbox_operator.errors import NotFound
from outbox_operator.keys import (
    CHILDREN,
    DEPLOYMENT,
    LEASE,
    OUTBOX_TENANT,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    WATCHED,
    Kind,
)
from outbox_operator.main import Operator, connections
from outbox_operator.settings import Settings
from tests.support.kubernetes_api import ApiServer
from tests.support.waiting import eventually
from tests.unit.operator_.conftest import build_tenant

EVERY_KIND = sorted(kind.plural for kind in WATCHED)


class World:
    """An API server with a running operator."""

    def __init__(self, api: ApiServer) -> None:
        self.api = api
        self.token = "first"
        """What is in the operator's token file."""
        self.settings = Settings(http_port=unused_port(), workers=2)
        self.operator: Operator
        self.running: asyncio.Task[None]

    def create_tenant(self, name: str, *, tenant_id: str | None = None) -> None:
        manifest = build_tenant(name=name, tenantId=tenant_id or name)
        manifest["metadata"] = {"namespace": "shop", "name": name}
        self.api.cluster.create(OUTBOX_TENANT, manifest)

    def give_the_lease_to(self, holder: str) -> None:
        target = {"namespace": self.settings.lease_namespace, "name": self.settings.lease_name}
        spec = {"holderIdentity": holder, "leaseDurationSeconds": 3600}
        self.api.cluster.create(LEASE, {"metadata": target, "spec": spec})

    def holder_of_the_lease(self) -> str:
        lease = self.api.cluster.read(LEASE, self.settings.lease_namespace, self.settings.lease_name)
        return str(lease["spec"]["holderIdentity"])

    def requests(self, verb: str) -> list[str]:
        return [what for found, what in self.api.cluster.requests if found == verb]

    @property
    def renewals(self) -> list[str]:
        return [what for what in self.api.cluster.writes if what.startswith("Lease")]

    def writes_about(self, name: str) -> list[str]:
        return [what for what in self.api.cluster.writes if name in what and not what.startswith("Lease")]

    async def gets_its_children(self, name: str) -> None:
        async def exists() -> bool:
            assert not self.running.done(), self.running.exception()
            try:
                self.api.cluster.read(DEPLOYMENT, "shop", f"{name}-projector")
                return "status" in self.api.cluster.read(OUTBOX_TENANT, "shop", name)
            except NotFound:
                return False

        await eventually(exists)

    async def watches_all(self, begun: int = 0) -> None:
        """Until every kind is watched, in addition to the watches that were begun before."""

        async def watched() -> bool:
            return self.api.watches >= begun + len(WATCHED)

        await eventually(watched)

    async def metrics(self) -> set[str]:
        """The lines of /metrics."""
        url = f"http://127.0.0.1:{self.settings.http_port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return set((await response.text()).splitlines())

    async def says(self, health: str) -> None:
        """Until /healthz answers so."""

        async def answers() -> bool:
            async with http.get(f"http://127.0.0.1:{self.settings.http_port}/healthz") as response:
                assert (response.status == 200) == (await response.text() == "ok\n")
                return health in await response.text()

        async with aiohttp.ClientSession() as http:
            await eventually(answers)


@asynccontextmanager
async def started(api: ApiServer) -> AsyncIterator[World]:
    """An operator at this API server. (No fixture: kopf, at its end, cancels every task that began after it, as those
    do.)"""
    world = World(api)

    def read_the_token(configuration: client.Configuration) -> None:
        configuration.api_key["BearerToken"] = f"bearer {world.token}"

    async with TestServer(api.app()) as server:
        configuration = client.Configuration(host=f"http://127.0.0.1:{server.port}")
        configuration.refresh_api_key_hook = read_the_token
        async with KubernetesCluster(configuration, connections=connections(world.settings)) as cluster:
            world.operator = Operator(cluster, world.settings)
            world.running = asyncio.create_task(world.operator.run(partial(credentials, configuration)))
            try:
                yield world
            finally:
                world.operator.stop()
                await asyncio.wait([world.running])


@asynccontextmanager
async def running(api: ApiServer | None = None) -> AsyncIterator[World]:
    """A world with one tenant."""
    async with started(api or ApiServer()) as world:
        await world.watches_all()
        world.create_tenant("acme")
        await world.gets_its_children("acme")
        yield world


async def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    async with running() as world:
        begun, lists = world.api.watches, world.requests("list")
        world.api.cut_the_watches()
        world.create_tenant("globex")
        await world.watches_all(begun)
        await world.gets_its_children("globex")
        assert world.requests("list") == lists


async def test_a_watch_whose_history_is_gone_begins_anew() -> None:
    async with running() as world:
        begun, lists = world.api.watches, len(world.requests("list"))
        world.api.cut_the_watches()
        world.create_tenant("globex")
        world.api.forget()
        world.create_tenant("initech")
        await world.watches_all(begun)
        for name in ("globex", "initech"):
            await world.gets_its_children(name)
        assert len(world.requests("list")) > lists


async def test_what_vanished_before_a_watch_began_anew_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The new watch can't tell of it, since it never saw it."""
    async with running() as world:
        monkeypatch.setattr("outbox_operator.resync.QUIET_SECONDS", 0.0)
        world.api.cut_the_watches()
        world.api.cluster.delete(ROLE, "shop", "acme-projector")
        world.api.forget()

        async def is_back() -> bool:
            try:
                return bool(world.api.cluster.read(ROLE, "shop", "acme-projector"))
            except NotFound:
                return False

        await eventually(is_back)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_watch_that_is_refused_for_a_moment_is_tried_again(status: int) -> None:
    async with running() as world:
        begun = world.api.watches
        world.api.refusals.extend([status] * 6)
        world.api.cut_the_watches()
        world.create_tenant("globex")
        await world.watches_all(begun)
        await world.gets_its_children("globex")
        assert not world.api.refusals


async def test_a_watch_that_is_told_of_an_error_begins_anew() -> None:
    async with running() as world:
        begun = world.api.watches
        world.api.fail_the_watches(500)
        world.create_tenant("globex")
        await world.watches_all(begun)
        await world.gets_its_children("globex")
        assert world.api.watched == EVERY_KIND


async def test_watches_over_which_nothing_arrives_any_more_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that swallows everything breaks no connection."""
    settings = handlers.settings()
    settings.watching.inactivity_timeout = 0.3
    monkeypatch.setattr(handlers, "settings", lambda: settings)
    async with running() as world:
        world.api.mute(*WATCHED)
        world.create_tenant("globex")
        await world.gets_its_children("globex")

        async def all_begun_anew() -> bool:
            return world.api.watched == EVERY_KIND

        await eventually(all_begun_anew)


async def test_a_watch_that_says_nothing_any_more_is_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox_operator.watching.GRACE_SECONDS", 0.5)
    async with running() as world:
        await world.says("ok")
        world.api.mute(ROLE)
        world.create_tenant("globex")
        await world.says("the watch of roles in shop has missed a change")
        world.api.cut_the_watches()
        await world.says("ok")


async def test_a_token_that_runs_out_is_replaced() -> None:
    """The file has the next one long before that."""
    async with running() as world:
        begun, lists = world.api.watches, world.requests("list")
        world.api.token = world.token = "second"
        world.api.cut_the_watches()
        world.create_tenant("globex")
        await world.watches_all(begun)
        await world.gets_its_children("globex")
        assert f"GET {ROLE.path(None)}" in world.api.unauthorized
        assert world.requests("list") == lists


async def test_a_token_that_is_refused_before_the_next_one_is_there_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kopf takes no credentials twice that were refused: all its watches end, and begin anew."""
    monkeypatch.setattr("outbox_operator.election.RENEW_DEADLINE_SECONDS", 60.0)
    async with running() as world:

        async def is_refused(what: str) -> bool:
            return what in world.api.unauthorized

        begun = world.api.watches
        world.api.token = "second"
        world.create_tenant("globex")
        await eventually(partial(is_refused, f"PATCH {SERVICE_ACCOUNT.path('shop', 'globex-projector')}"))
        world.api.cut_the_watches()
        # The first request of watches that begin anew, with the same token once more.
        await eventually(partial(is_refused, "GET /apis"))
        world.token = "second"
        await world.watches_all(begun)
        await world.gets_its_children("globex")


@pytest.mark.parametrize("status", [429, 500, 409])
async def test_a_write_that_is_refused_for_a_moment_is_tried_again(status: int) -> None:
    async with running() as world:
        world.api.refusals.extend([status] * 2)
        world.create_tenant("globex")
        await world.gets_its_children("globex")
        assert not world.api.refusals


async def test_writes_whose_answers_are_lost_are_found_to_be_done() -> None:
    async with running() as world:
        told: list[tuple[str, Kind]] = []
        world.api.cluster.listeners.append(lambda event, kind, _: told.append((event, kind)))
        world.api.lost_answers = 5
        world.create_tenant("globex")
        await world.gets_its_children("globex")
        assert world.api.lost_answers == 0
        created = [("ADDED", kind) for kind in (SERVICE_ACCOUNT, ROLE, ROLE_BINDING, DEPLOYMENT)]
        assert [(event, kind) for event, kind in told if kind in CHILDREN] == created


async def test_an_edit_is_put_back_and_then_nothing_is_written() -> None:
    async with running() as world:
        cluster = world.api.cluster
        target = {"metadata": {"namespace": "shop", "name": "acme-projector"}}
        cluster.create(ROLE, {**target, "rules": []})

        async def repaired() -> bool:
            return bool(cluster.read(ROLE, "shop", "acme-projector")["rules"])

        await eventually(repaired)
        before = world.writes_about("acme")
        # The watches tell of what was written; when the next tenant has its children, they are through with it.
        world.create_tenant("globex")
        await world.gets_its_children("globex")
        assert world.writes_about("acme") == before


async def test_a_change_that_an_answer_to_a_write_brings_reaches_those_who_claim_the_same_rows() -> None:
    """The watch tells of it later, and then it is no news."""
    async with running() as world:
        cluster = world.api.cluster
        world.create_tenant("twin", tenant_id="acme")
        await world.gets_its_children("twin")

        async def replicas_of_twin() -> bool:
            return bool(cluster.read(DEPLOYMENT, "shop", "twin-projector")["spec"]["replicas"])

        assert not await replicas_of_twin()
        world.api.mute(OUTBOX_TENANT)
        acme = {"namespace": "shop", "name": "acme"}
        cluster.create(OUTBOX_TENANT, {"metadata": acme, "spec": {"database": {"table": "other"}}})
        child = {"metadata": {"namespace": "shop", "name": "acme-projector"}}
        cluster.report({**child, "status": {"readyReplicas": 1}}, manager="controller", kind=DEPLOYMENT)
        await eventually(replicas_of_twin)


async def test_the_lease_is_renewed_though_all_else_waits_for_the_api_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tenants are created during a resync: the client gives no connection to who waits for one while there are
    others who ask."""
    async with running() as world:
        monkeypatch.setattr("outbox_operator.resync.QUIET_SECONDS", 0.0)
        monkeypatch.setattr("outbox_operator.election.RENEW_SECONDS", 0.0)
        with world.api.busy():
            for number in range(2 * world.settings.workers):
                world.create_tenant(f"tenant-{number}")
            world.operator._resync.soon()

            async def all_wait() -> bool:
                return world.api.waiting == world.settings.workers + 1

            await eventually(all_wait)
            renewals = len(world.renewals)

            async def is_renewed() -> bool:
                return len(world.renewals) > renewals + 1

            await eventually(is_renewed)


async def test_the_lease_is_given_back_at_the_end() -> None:
    async with running() as world:
        world.operator.stop()
        await world.running
        assert world.holder_of_the_lease() == ""


async def test_who_loses_the_lease_amid_a_look_ends_and_writes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox_operator.election.RENEW_SECONDS", 0.01)
    async with running() as world:
        cluster, asked = world.api.cluster, asyncio.Event()
        apply = cluster.apply

        async def without_roles(kind: Kind, manifest: Any, **how: Any) -> Any:
            if kind == ROLE:
                asked.set()
                await asyncio.Event().wait()
            return await apply(kind, manifest, **how)

        monkeypatch.setattr(cluster, "apply", without_roles)
        world.create_tenant("globex")
        await asked.wait()
        world.give_the_lease_to("another")
        with pytest.raises(LeadershipLost, match="held by another"):
            await world.running
        monkeypatch.undo()

        async def watches_nothing() -> bool:
            return not world.api.watched

        await eventually(watches_nothing)
        assert world.writes_about("globex") == ["ServiceAccount globex-projector"]
        assert world.holder_of_the_lease() == "another"


async def test_a_standby_knows_everything_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox_operator.election.STANDBY_SECONDS", 0.01)
    monkeypatch.setattr("outbox_operator.resync.QUIET_SECONDS", 3600.0)
    api = ApiServer()
    async with running(api) as world:
        pass
    begun, lists, written = api.watches, len(world.requests("list")), world.writes_about("acme")
    world.give_the_lease_to("another")
    async with started(api) as world:
        await world.watches_all(begun)
        world.create_tenant("globex")
        looks = len(world.requests("get"))

        async def knows_everything() -> bool:
            """kopf and the first pass have listed each kind, and there was time to tell of the new tenant."""
            listed = len(world.requests("list")) == lists + 2 * len(WATCHED)
            return listed and len(world.requests("get")) > looks + 30

        await eventually(knows_everything)
        assert world.writes_about("globex") == []
        assert "outbox_operator_acting 0.0" in await world.metrics()
        world.give_the_lease_to("")
        await world.gets_its_children("globex")
        assert {
            "outbox_operator_acting 1.0",
            'outbox_operator_writes_total{kind="Deployment"} 1.0',
        } <= await world.metrics()
        assert len(world.requests("list")) == lists + 2 * len(WATCHED)
        assert world.writes_about("acme") == written
