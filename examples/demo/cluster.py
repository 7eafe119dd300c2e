"""helm and kubectl, as a person would call them."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import yaml

NAMESPACE = "shops"


def run(*command: str, stdin: str | None = None) -> str:
    """The output of a command; its own words end the demo when it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"demo: `{' '.join(command)}` failed:\n{done.stderr or done.stdout}")
    return done.stdout


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """kubectl in the demo's namespace."""
    return run("kubectl", "--namespace", NAMESPACE, *arguments, stdin=stdin)


def apply(*manifests: dict[str, Any]) -> None:
    """kubectl apply."""
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))


def tenant(name: str, *, database_url: str, service_url: str, topic: str) -> list[dict[str, Any]]:
    """A tenant: its Secret and its OutboxTenant."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-database"},
        "data": {"url": base64.b64encode(database_url.encode()).decode()},
    }
    outbox = {
        "apiVersion": "outbox.bento.dev/v1alpha1",
        "kind": "OutboxTenant",
        "metadata": {"name": name},
        "spec": {
            "tenantId": name,
            "database": {"urlSecretRef": {"name": f"{name}-database"}},
            "pulsar": {"serviceUrl": service_url, "topic": topic},
        },
    }
    return [secret, outbox]


def outbox_tenant(name: str) -> dict[str, Any]:
    """The OutboxTenant as it is now."""
    found: dict[str, Any] = json.loads(kubectl("get", "outboxtenant", name, "-o", "json"))
    return found


def table() -> str:
    """`kubectl get outboxtenants`, as it is."""
    return kubectl("get", "outboxtenants").rstrip()


def row(name: str) -> tuple[list[str], list[str]]:
    """The names of the table's columns, and a tenant's values in them."""
    columns, values = kubectl("get", "outboxtenants", name).splitlines()
    return columns.split(), values.split()


def pod_addresses(name: str) -> list[str]:
    """The addresses of the tenant's projector pods."""
    pods = json.loads(kubectl("get", "pods", "-l", f"outbox.bento.dev/outboxtenant={name}", "-o", "json"))
    return [pod["status"]["podIP"] for pod in pods["items"] if "podIP" in pod["status"]]


def lag_seconds(seen: dict[str, Any]) -> int:
    """LAG as the table shows it; 0 where it shows none."""
    return int(seen.get("status", {}).get("projector", {}).get("oldestPendingSeconds", 0))


def errors(seen: dict[str, Any]) -> int:
    """ERR as the table shows it; 0 where it shows none."""
    return int(seen.get("status", {}).get("projector", {}).get("errors", 0))


def watch(name: str, limit_seconds: float) -> Iterator[dict[str, Any]]:
    """The OutboxTenant about twice a second, until the caller has seen enough. Ends the demo at the limit."""
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        yield outbox_tenant(name)
        time.sleep(0.5)
    raise SystemExit(f"demo: not seen within {limit_seconds:.0f} s; kubectl shows:\n{table()}")


def wait_until(name: str, limit_seconds: float, holds: Callable[[dict[str, Any]], bool]) -> None:
    """Waits until the OutboxTenant is as wanted."""
    for seen in watch(name, limit_seconds):
        if holds(seen):
            return
