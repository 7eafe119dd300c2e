"""The cluster as a person meets it: through kubectl. Waiting is `kubectl wait`, which watches."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import yaml

WAIT_SECONDS = 90


class Refused(AssertionError):
    """kubectl failed; `str(error)` is what it said."""


def run(*command: str, stdin: str | None = None) -> str:
    """The output of a command. Raises Refused with its words."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Refused(f"`{' '.join(command)}`: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace."""

    namespace: str

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        return run("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin)

    def apply(self, *manifests: dict[str, Any]) -> str:
        """kubectl apply, with the strict validation that it does by default."""
        return self("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def replace_raw(self, path: str, body: dict[str, Any]) -> str:
        """A PUT to a path of the API server, as programs send it."""
        return self("replace", "--raw", path, "-f", "-", stdin=json.dumps(body))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        found: dict[str, Any] = json.loads(self("get", kind, name, "-o", "json"))
        return found

    def items(self, kind: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of a kind that match a label selector."""
        listed = json.loads(self("get", kind, "-o", "json", *(["-l", selector] if selector else [])))
        found: list[dict[str, Any]] = listed["items"]
        return found

    def patch(self, kind: str, name: str, change: dict[str, Any]) -> str:
        """A merge patch."""
        return self("patch", kind, name, "--type=merge", "-p", json.dumps(change))

    def delete(self, kind: str, name: str) -> None:
        """Deletes one object and waits until it is gone."""
        self("delete", kind, name, "--wait=true", f"--timeout={WAIT_SECONDS}s")

    def wait(self, target: str, until: str, *, seconds: int = WAIT_SECONDS) -> None:
        """Until `until`, such as `condition=Ready`, `delete`, or `jsonpath={.status.replicas}=2`."""
        self("wait", target, f"--for={until}", f"--timeout={seconds}s")
