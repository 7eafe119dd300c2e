"""The replicas of the operator: which one acts, what it has logged, and its process."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.e2e.kubectl import WAIT_SECONDS, Kubectl
from tests.e2e.tenants import Tenant
from tests.support.waiting import eventually

LEASE = "outbox-operator"


def replicas(operator: Kubectl) -> set[str]:
    """The operator's pods."""
    return {pod["metadata"]["name"] for pod in operator.items("pods", "app.kubernetes.io/name=outbox-operator")}


def holder(operator: Kubectl) -> str:
    """The process that holds the Lease, by its pod's name, an underscore, and a name of its own; empty: nobody."""
    identity: str = operator.get("lease", LEASE)["spec"]["holderIdentity"]
    return identity


def leader(operator: Kubectl) -> str:
    """The pod that holds the Lease; empty when nobody does."""
    return holder(operator).partition("_")[0]


async def another_leads(operator: Kubectl, than: Collection[str], *, within: float = WAIT_SECONDS) -> None:
    """Until somebody leads who is none of these: pods, or processes, of which a pod may have one after the other."""

    async def followed() -> bool:
        now = holder(operator)
        return bool(now) and not {now, now.partition("_")[0]} & set(than)

    await eventually(followed, within=within)


async def has_looked_at_all(operator: Kubectl) -> None:
    """Until the pod that leads has looked at every tenant."""

    async def caught_up() -> bool:
        return "caught up" in [line["event"] for line in log(operator)]

    await eventually(caught_up)


def log(operator: Kubectl) -> list[dict[str, Any]]:
    """What the pod that leads has logged since its start."""
    return [json.loads(line) for line in operator("logs", leader(operator)).splitlines()]


def said_of(operator: Kubectl, *tenants: Tenant) -> list[dict[str, Any]]:
    """What the pod that leads has logged of these tenants since its start: each write, and each failure."""
    keys = {f"{tenant.kubectl.namespace}/{tenant.name}" for tenant in tenants}
    return [line for line in log(operator) if line.get("key") in keys]


def process_of(pod: str) -> int:
    """The process id of an operator, by the host name that its pod gave it."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            found = f"HOSTNAME={pod}".encode() in environ.read_bytes().split(b"\0")
            command = environ.with_name("cmdline").read_bytes()
        except OSError:
            continue  # It has ended meanwhile.
        if found and b"outbox-operator" in command:
            return int(environ.parent.name)
    raise AssertionError(f"no process of {pod} is seen from here")
