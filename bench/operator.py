"""The operator with many OutboxTenants, on a real control plane whose pods are kwok's.

    apply_ratio        from the first OutboxTenant applied to the last Deployment created, in multiples of the time that
                       a bare loop takes to apply what the operator applies, with the same number of connections
    apply_ratio_whole  the same, where the bare loop applies the OutboxTenants, too
    first_look_seconds from the start of the process until it begins to look at tenants
    restart_seconds    from the start of the process until every tenant was looked at
    restart_writes     what it wrote meanwhile, apart from its Lease
    report_cpu_cores   CPU while every tenant reports once a minute
    report_writes      what it wrote meanwhile
    memory_mb          resident after that, in MiB
    repair_seconds     from an edit of one Deployment until it is as it was
    sigterm_seconds    from a SIGTERM for the replica that acts until the other has looked at every tenant
    kill_seconds       the same from a SIGKILL

TENANTS=5000 sets their number; 1,000 if unset. WORKERS=32 gives the operator so many workers, each with a
connection, and leaves the bare loop its 16 connections; 16 if unset.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.harness.control_plane import ControlPlane, own_control_plane
from bench.harness.errors import BenchError
from bench.harness.kubernetes_api import Api, connected
from bench.harness.process import Process
from outbox_operator import manifests
from outbox_operator.keys import DEPLOYMENT, OUTBOX_TENANT, Manifest
from sandbox import caching, components

PARTS = ("kubernetes",)
PROGRAM = Path(sys.executable).with_name("outbox-operator")
CRD = Path(__file__).parents[1] / "crds" / "outboxtenants.yaml"
IMAGE = "localhost/projector:bench"
CONNECTIONS = 16
NAMESPACE, BARE = "bench", "bare"
PATIENCE_SECONDS = 600
REPAIRS = 9


def prepare() -> None:
    """Builds kwok where there is a network."""
    with caching.locked():
        components.kwok()


def run(*, smoke: bool) -> Figures:
    """The figures."""
    tenants = 10 if smoke else int(os.environ.get("TENANTS") or 1000)
    with own_control_plane() as plane:
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        plane.kubectl("wait", "--for=condition=Established", "crd/outboxtenants.outbox.bento.dev")
        for namespace in (NAMESPACE, BARE):
            plane.kubectl("create", "namespace", namespace)
        return asyncio.run(_Bench(plane, tenants, 5 if smoke else 60, takeovers=1 if smoke else 3).run())


@dataclass
class _Bench:
    plane: ControlPlane
    tenants: int
    report_seconds: float
    takeovers: int
    figures: Figures = field(default_factory=Figures)

    async def run(self) -> Figures:
        async with connected(self.plane, connections=CONNECTIONS) as api:
            tenants, children = await self._bare_loop(api)
            with self._operator() as operator:
                await operator.until("caught up")
                took = await self._apply_all(api)
                await self._until_settled(api)
            self.figures.add("tenants", self.tenants)
            self.figures.add("apply_ratio", took / children, goal="≤ 1.25")
            self.figures.add("apply_ratio_whole", took / (tenants + children))
            self.figures.add("apply_seconds", took, "s")
            await self._restart(api)
        self.figures.add("sigterm_seconds", await self._takeovers(signal.SIGTERM), "s", goal="≤ 3")
        self.figures.add("kill_seconds", await self._takeovers(signal.SIGKILL), "s", goal="≤ 20")
        return self.figures

    async def _bare_loop(self, api: Api) -> tuple[float, float]:
        """Seconds to apply the OutboxTenants, and what the operator will apply; afterwards all is removed again."""
        began = time.monotonic()
        await _at_once(api.apply(OUTBOX_TENANT, _tenant(number, BARE)) for number in range(self.tenants))
        tenants = time.monotonic() - began
        template = (await api.get(OUTBOX_TENANT, BARE, _name(0))) | {"status": {}}

        async def one(number: int) -> None:
            tenant = {**template, "metadata": {**template["metadata"], "name": _name(number)}}
            for kind, manifest in manifests.children(tenant, image=IMAGE, replicas=1):
                del manifest["metadata"]["ownerReferences"]
                await api.apply(kind, manifest)

        began = time.monotonic()
        await _at_once(one(number) for number in range(self.tenants))
        children = time.monotonic() - began
        await self._until_pods_run(api, BARE)
        self.plane.kubectl("delete", "namespace", BARE)
        return tenants, children

    async def _apply_all(self, api: Api) -> float:
        began = time.monotonic()
        await _at_once(api.apply(OUTBOX_TENANT, _tenant(number, NAMESPACE)) for number in range(self.tenants))

        async def all_created() -> bool:
            return await api.count(DEPLOYMENT, NAMESPACE) == self.tenants

        await _eventually(all_created, what="Deployment of every tenant")
        return time.monotonic() - began

    async def _until_pods_run(self, api: Api, namespace: str) -> None:
        async def all_run() -> bool:
            found = await api.list(DEPLOYMENT, namespace)
            return sum(bool(d.get("status", {}).get("readyReplicas")) for d in found) == self.tenants

        await _eventually(all_run, what="pods that run")

    async def _until_settled(self, api: Api) -> None:
        """All pods run, every projector has reported, and every status says that events flow."""
        await self._until_pods_run(api, NAMESPACE)
        await self._report(api, seconds=0)

        def is_well(tenant: Manifest) -> bool:
            reasons = {c["type"]: c["reason"] for c in tenant["status"]["conditions"]}
            return (reasons.get("Ready"), reasons.get("Progressing")) == ("Delivering", "Stable")

        async def all_ready() -> bool:
            return all(map(is_well, await api.list(OUTBOX_TENANT, NAMESPACE)))

        await _eventually(all_ready, what="tenants that are Ready")

    async def _restart(self, api: Api) -> None:
        before = await api.applies()
        with self._operator() as operator:
            self.figures.add("first_look_seconds", await operator.until("reconciling"), "s")
            self.figures.add("restart_seconds", await operator.until("caught up"), "s", goal="≤ 15 with 5,000")
            self.figures.add("restart_writes", await api.applies() - before, goal="0")
            # The watches list everything, too, when they begin, and then there is another pass: those are no reports.
            await operator.until("resync", times=2)
            used = operator.process.cpu_seconds()
            before = await api.applies()
            reports = await self._report(api, seconds=self.report_seconds)
            cores = (operator.process.cpu_seconds() - used) / self.report_seconds
            # As many reports a second as there would be if each came once a minute.
            self.figures.add("report_cpu_cores", cores, "cores", goal="≤ 0.15 with 5,000")
            self.figures.add("report_writes", await api.applies() - before - reports, goal="0")
            self.figures.add("memory_mb", operator.process.resident_megabytes(), "MiB", goal="≤ 220 with 5,000")
            self.figures.add("repair_seconds", [await self._repair(api) for _ in range(REPAIRS)], "s", goal="≤ 2")

    async def _report(self, api: Api, *, seconds: float) -> int:
        """Every tenant's projector, or as many as report in that time, at the rate of one report a minute: how many."""
        number = round(self.tenants * seconds / 60) if seconds else self.tenants
        began = time.monotonic()

        async def one(index: int) -> None:
            if seconds:
                await asyncio.sleep(max(0.0, began + index * seconds / number - time.monotonic()))
            await api.apply(OUTBOX_TENANT, _report(_name(index)), subresource="/status", manager="outbox-projector")

        await _at_once(one(index) for index in range(number))
        await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
        return number

    async def _repair(self, api: Api) -> float:
        name = f"{_name(self.tenants // 2)}-projector"
        began = time.monotonic()
        edited = await api.merge(DEPLOYMENT, NAMESPACE, name, {"spec": {"replicas": 3}})

        async def repaired() -> bool:
            live = await api.get(DEPLOYMENT, NAMESPACE, name)
            newer = live["metadata"]["generation"] > edited["metadata"]["generation"]
            return bool(newer and live["spec"]["replicas"] == 1)

        await _eventually(repaired, what="repair")
        return time.monotonic() - began

    async def _takeovers(self, end: signal.Signals) -> list[float]:
        """Seconds from the end of the replica that acts until the one that stood by has looked at every tenant."""
        seconds = []
        with ExitStack() as stack:
            acts = stack.enter_context(self._operator())
            await acts.until("caught up")
            for number in range(self.takeovers):
                stands_by = stack.enter_context(self._operator(number + 1))
                await stands_by.until("resync", times=2)
                began = time.monotonic()
                os.kill(acts.process.pid, end)
                await stands_by.until("caught up")
                seconds.append(time.monotonic() - began)
                acts = stands_by
        return seconds

    @contextmanager
    def _operator(self, number: int = 0) -> Iterator[_Operator]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
        variables = {
            "KUBECONFIG": str(self.plane.kubeconfig),
            "OUTBOX_OPERATOR_PROJECTOR_IMAGE": IMAGE,
            "OUTBOX_OPERATOR_WORKERS": os.environ.get("WORKERS") or str(CONNECTIONS),
            "OUTBOX_OPERATOR_HTTP_PORT": str(18080 + number),
        }
        log = self.plane.home / f"operator-{number}.log"
        with Process([PROGRAM, "run"], env=clean | variables, log=log, cwd=self.plane.home) as process:
            yield _Operator(process, log)


@dataclass
class _Operator:
    process: Process
    log: Path

    async def until(self, event: str, *, times: int = 1) -> float:
        """Seconds from its start until it had logged this so many times."""

        async def logged() -> bool:
            self.process.check()
            return sum(_event(line) == event for line in self.log.read_text().splitlines()) >= times

        await _eventually(logged, what=f"operator that is {event}")
        return time.monotonic() - self.process.began


def _event(line: str) -> str | None:
    return str(json.loads(line).get("event")) if line.startswith("{") and line.endswith("}") else None


def _name(number: int) -> str:
    return f"t{number:05}"


def _tenant(number: int, namespace: str) -> Manifest:
    return {
        "apiVersion": OUTBOX_TENANT.api_version,
        "kind": OUTBOX_TENANT.kind,
        "metadata": {"name": _name(number), "namespace": namespace},
        "spec": {
            "tenantId": _name(number),
            "database": {"urlSecretRef": {"name": _name(number)}},
            "pulsar": {"serviceUrl": "pulsar://broker:6650"},
        },
    }


def _report(name: str) -> Manifest:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    connected = {"status": "True", "reason": "Connected", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    return {
        "apiVersion": OUTBOX_TENANT.api_version,
        "kind": OUTBOX_TENANT.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "status": {
            "projector": {"pending": 0, "oldestPendingSeconds": 0, "errors": 0, "reportedTime": now},
            "conditions": [{"type": kind, **connected} for kind in ("DatabaseReachable", "BrokerReachable")],
        },
    }


async def _at_once(jobs: Iterator[Awaitable[Any]]) -> None:
    """Does all of them, as many at a time as there are connections."""

    async def work() -> None:
        for job in jobs:
            await job

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(work())


async def _eventually(look: Callable[[], Awaitable[bool]], *, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await look():
        if time.monotonic() > deadline:
            raise BenchError(f"no {what} within {PATIENCE_SECONDS} s")
        await asyncio.sleep(0.05)
