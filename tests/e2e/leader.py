"""Which replica of the operator acts, and its process."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.kubectl import Kubectl

LEASE = "outbox-operator"


def leader(operator: Kubectl) -> str:
    """The pod that holds the Lease; empty when nobody does."""
    holder: str = operator.get("lease", LEASE)["spec"]["holderIdentity"]
    return holder.partition("_")[0]


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
