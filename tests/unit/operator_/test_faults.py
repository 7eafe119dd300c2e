"""The whole operator, kopf included, against an API server that fails as real ones do. It goes on by itself, or it ends
with the reason; what happened meanwhile is made up for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestServer, unused_port
from kubernetes.aio import client

from outbox_operator.cluster import Credentials, KubernetesCluster
from outbox_operator.errors import NotFound
from outbox_operator.keys import DEPLOYMENT, LEASE, OUTBOX_TENANT, ROLE
from outbox_operator.main import Operator
from outbox_operator.settings import Settings
from tests.support.kubernetes_api import ApiServer
from tests.support.waiting import eventually
from tests.unit.operator_.conftest import build_tenant


class World:
    """An API server with a running operator."""

    def __init__(self, api: ApiServer, operator: Operator, running: asyncio.Task[None]) -> None:
        self.api, self.operator, self.running = api, operator, running

    def create_tenant(self, name: str) -> None:
        manifest = build_tenant(name=name, tenantId=name)
        manifest["metadata"] = {"namespace": "shop", "name": name}
        self.api.cluster.create(OUTBOX_TENANT, manifest)

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
            return self.api.watches >= begun + 6

        await eventually(watched)


@asynccontextmanager
async def running() -> AsyncIterator[World]:
    """A world with one tenant. (No fixture: kopf, at its end, cancels every task that began after it, as those do.)"""
    api = ApiServer()
    async with TestServer(api.app()) as server:
        host = f"http://127.0.0.1:{server.port}"

        async def login() -> Credentials:
            return Credentials(host, None, None, None, "token", insecure=True)

        async with KubernetesCluster(client.Configuration(host=host), connections=3) as cluster:
            operator = Operator(cluster, Settings(http_port=unused_port(), workers=2))
            world = World(api, operator, asyncio.create_task(operator.run(login)))
            try:
                await world.watches_all()
                world.create_tenant("acme")
                await world.gets_its_children("acme")
                yield world
            finally:
                operator.stop()
                await asyncio.wait([world.running])


async def test_a_watch_that_breaks_goes_on_where_it_was() -> None:
    async with running() as world:
        begun = world.api.watches
        world.api.cut_the_watches()
        world.create_tenant("globex")
        await world.watches_all(begun)
        await world.gets_its_children("globex")


async def test_a_watch_whose_history_is_gone_begins_anew() -> None:
    async with running() as world:
        begun = world.api.watches
        world.api.cut_the_watches()
        world.create_tenant("globex")
        world.api.forget()
        world.create_tenant("initech")
        await world.watches_all(begun)
        for name in ("globex", "initech"):
            await world.gets_its_children(name)


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


async def test_a_watch_that_is_told_of_an_error_begins_anew() -> None:
    async with running() as world:
        begun = world.api.watches
        world.api.fail_the_watches(500)
        world.create_tenant("globex")
        await world.watches_all(begun)
        await world.gets_its_children("globex")
        assert world.api.streams == 6


@pytest.mark.parametrize("status", [429, 500, 409])
async def test_a_write_that_is_refused_for_a_moment_is_tried_again(status: int) -> None:
    async with running() as world:
        world.api.refusals.extend([status] * 2)
        world.create_tenant("globex")
        await world.gets_its_children("globex")


async def test_an_edit_is_put_back_and_then_nothing_is_written() -> None:
    async with running() as world:
        cluster = world.api.cluster
        target = {"metadata": {"namespace": "shop", "name": "acme-projector"}}
        cluster.create(ROLE, {**target, "rules": []})

        async def repaired() -> bool:
            return bool(cluster.read(ROLE, "shop", "acme-projector")["rules"])

        await eventually(repaired)
        before = list(cluster.writes)
        # The watches tell of what was written; when the next tenant has its children, they are through with it.
        world.create_tenant("globex")
        await world.gets_its_children("globex")
        later = [what for what in cluster.writes[len(before) :] if "acme" in what and not what.startswith("Lease")]
        assert later == []


async def test_the_lease_is_given_back_at_the_end() -> None:
    async with running() as world:
        world.operator.stop()
        await world.running
        assert world.api.cluster.read(LEASE, "default", "outbox-operator")["spec"]["holderIdentity"] == ""
