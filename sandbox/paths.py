"""Where things are.

<cache>                      $XDG_CACHE_HOME/bento-outbox, by default ~/.cache/bento-outbox
<cache>/<thing>-<version>/   a finished build; complete if it exists
<cache>/build/               compilers' and package managers' own caches; only speeds up the next build
<cache>/run/                 the running sandbox: state, logs, data of the daemons; gone after `down`
"""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
COMPONENTS = PROJECT / "sandbox" / "components"
TEMPLATES = PROJECT / "sandbox" / "templates"


def cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).resolve() / "bento-outbox"


def build_cache(tool: str) -> Path:
    """The folder that a package manager or compiler keeps for itself between builds."""
    path = cache() / "build" / tool
    path.mkdir(parents=True, exist_ok=True)
    return path


def temporary() -> Path:
    """The TMPDIR of builds: what they leave there when they are interrupted is cleared away by the next one."""
    return build_cache("tmp")


def run() -> Path:
    return cache() / "run"


def logs() -> Path:
    return run() / "log"


def build_logs() -> Path:
    path = cache() / "build" / "log"
    path.mkdir(parents=True, exist_ok=True)
    return path


# Inside the sandbox /run is private, and this is the cache seen through it. A daemon that is not root reaches its files
# here even when the home folder is closed to it.
INSIDE = Path("/run/sandbox")


def through_run(path: Path) -> Path:
    """The same file as seen by a process in the sandbox that may not enter the home folder."""
    return INSIDE / "cache" / path.relative_to(cache())


OUTSIDE_NETWORK = INSIDE / "outside"
"""The host's network namespace, for what must reach a package registry or an existing database from inside."""

# Folders outside <cache>/run that the kubelet and the CNI plugins insist on. Inside, private ones are mounted over
# them; outside, they are made if missing and removed again by `down`.
PRIVATE = ["/var/lib/cni", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"]
