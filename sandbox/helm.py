"""Installs a chart as one would by hand; also after an interrupted attempt, which helm by itself refuses."""

import json
import subprocess

from sandbox import processes
from sandbox.errors import SandboxError


def install(release: str, chart: str, *, namespace: str) -> None:
    """The chart with default values, ready when this returns; upgraded where it is already there."""
    status = _status(release, namespace)
    if status.startswith("pending-"):
        # The chart keeps its CRD, and so every object of that kind.
        _run("helm", "uninstall", release, "--namespace", namespace, "--wait")
    command = ("helm", "upgrade", "--install", release, chart, "--namespace", namespace, "--create-namespace")
    # Without any values of its own an upgrade would take those of the release before.
    _run(*command, "--reset-values", "--wait", "--timeout", "3m")
    if status == "deployed":
        # The images keep their tag when the source changes, so nothing tells the running pods that there are new ones.
        _run("kubectl", "rollout", "restart", "deployment", "--namespace", namespace)
        _run("kubectl", "rollout", "status", "deployment", "--namespace", namespace, "--timeout", "3m")


def _status(release: str, namespace: str) -> str:
    found = processes.output(["helm", "status", release, "--namespace", namespace, "--output", "json"])
    return "" if found is None else str(json.loads(found)["info"]["status"])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SandboxError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
