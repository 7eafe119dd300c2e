"""OutboxTenants as tests write them, and what they show."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from tests.e2e.kubectl import WAIT_SECONDS, Kubectl
from tests.support.rows import Rows
from tests.support.waiting import eventually

API_VERSION = "outbox.bento.dev/v1alpha1"
TENANT_LABEL = "outbox.bento.dev/outboxtenant"
CHILDREN = ("serviceaccounts", "roles", "rolebindings", "deployments", "poddisruptionbudgets")
"""What a tenant of two or more replicas has, beside its pods."""


async def delivers(rows: Rows) -> None:
    """An event that is written now is sent, as all before it."""
    await rows.insert()
    await all_sent(rows)


async def all_sent(rows: Rows) -> None:
    """Waits until every row is sent."""

    async def look() -> bool:
        return set(await rows.statuses()) == {"SENT"}

    await eventually(look, within=WAIT_SECONDS)


def secret(name: str, url: str) -> dict[str, Any]:
    """A Secret with a database URL."""
    data = {"url": base64.b64encode(url.encode()).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def outbox_tenant(name: str, **spec: Any) -> dict[str, Any]:
    """An OutboxTenant with this spec."""
    return {"apiVersion": API_VERSION, "kind": "OutboxTenant", "metadata": {"name": name}, "spec": spec}


@dataclass(frozen=True)
class Tenant:
    """One applied OutboxTenant."""

    kubectl: Kubectl
    name: str
    topic: str

    @property
    def selector(self) -> str:
        """The label selector of its pods."""
        return f"{TENANT_LABEL}={self.name}"

    def is_ready(self) -> None:
        """Waits for Ready=True."""
        self.kubectl.wait(f"obt/{self.name}", "condition=Ready")

    def is_not_ready(self, reason: str) -> str:
        """Waits for Ready=False with this reason; returns the message."""
        self.shows('{.status.conditions[?(@.type=="Ready")].reason}', reason)
        ready = self.condition("Ready")
        assert ready["status"] == "False"
        return str(ready["message"])

    def shows(self, path: str, value: object) -> None:
        """Waits until the object holds `value` at this JSONPath."""
        self.kubectl.wait(f"obt/{self.name}", f"jsonpath={path}={value}")

    def condition(self, kind: str) -> dict[str, Any]:
        """One condition as it is now."""
        conditions = self.kubectl.get("obt", self.name)["status"]["conditions"]
        found: dict[str, Any] = next(c for c in conditions if c["type"] == kind)
        return found

    def is_looked_after(self) -> None:
        """A child that is deleted comes back: some operator acts."""
        child = f"{self.name}-projector"
        self.kubectl("delete", "role", child)
        self.kubectl.wait(f"role/{child}", "create")

    def is_rolled_out(self) -> None:
        """Waits until all pods are as the spec wants them."""
        self.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "Stable")

    def children(self) -> dict[str, str]:
        """Which of CHILDREN there are, by kind: others have other values."""
        return {o["kind"]: o["metadata"]["uid"] for o in self.kubectl.items(",".join(CHILDREN), self.selector)}

    def is_without_pods(self) -> None:
        """Waits until the last pod is gone."""
        self.kubectl("wait", "pods", "-l", self.selector, "--for=delete", f"--timeout={WAIT_SECONDS}s")

    def pods(self) -> list[dict[str, Any]]:
        """The projector's pods."""
        return self.kubectl.items("pods", self.selector)

    def pod_ids(self) -> set[str]:
        """Which pods they are: others have others."""
        return {pod["metadata"]["uid"] for pod in self.pods()}

    def logs(self) -> str:
        """What all its pods have logged. A pod may report before the kubelet has said that it runs, and `kubectl logs`
        refuses a pod of which that is not known."""
        runs, limit = "--for=jsonpath={.status.phase}=Running", f"--timeout={WAIT_SECONDS}s"
        self.kubectl("wait", "pods", "-l", self.selector, runs, limit)
        return self.kubectl("logs", "-l", self.selector, "--tail=-1")

    def restarts(self) -> int:
        """How often the projector's containers were restarted."""
        statuses = [status for pod in self.pods() for status in pod["status"].get("containerStatuses", [])]
        return sum(status["restartCount"] for status in statuses)

    def row(self) -> list[str]:
        """The tenant's line of `kubectl get outboxtenants`, without NAME and AGE."""
        line = self.kubectl("get", "outboxtenants", self.name, "--no-headers").split()
        return line[1:-1]
