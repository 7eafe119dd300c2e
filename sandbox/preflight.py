"""Says what stands in the way before anything is built: in one sentence, with the way out.

What can be known without acting is gathered into `Facts` and judged by `refusal`. Whether the package registries answer
is asked of their ordinary clients, as they are configured here, and only of those that the missing builds need.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import distribution, golang, java, paths, processes, progress
from sandbox.errors import SandboxError
from sandbox.parts import PARTS

ENOUGH_TO_RUN_GIGABYTES = 2.0


@dataclass(frozen=True)
class Facts:
    system: str
    root: bool
    namespaces: bool
    """Whether this account may create namespaces: root in a container often may not."""
    apt: bool
    missing_packages: Sequence[str]
    cache: Path
    free_gigabytes: float
    needed_gigabytes: float


def refusal(facts: Facts) -> str | None:
    """Why the sandbox cannot be started here, if it cannot."""
    if facts.system != "Linux":
        return (
            f"The sandbox needs Linux, and this is {facts.system}: use a virtual machine or parts that exist elsewhere."
        )
    if not facts.root:
        return "The sandbox needs root for its private network and containers: run the command with sudo, or as root."
    if not facts.namespaces:
        return "The kernel lets this root create no namespaces: use a (virtual) machine, or a privileged container."
    if facts.missing_packages and not facts.apt:
        missing = ", ".join(facts.missing_packages)
        return f"This is neither Debian nor Ubuntu: install {missing} by its own means, and try again."
    if facts.free_gigabytes < facts.needed_gigabytes:
        return (
            f"{facts.cache} has {facts.free_gigabytes:.1f} GB left and {facts.needed_gigabytes:.0f} GB are needed: "
            "make room, or set XDG_CACHE_HOME to a folder on another disk."
        )
    return None


def facts(names: Sequence[str]) -> Facts:
    """What counts for these parts on this machine."""
    probe = ["unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "true"]
    builds = [PARTS[name] for name in names if PARTS[name].fetches()]
    return Facts(
        system=platform.system(),
        root=os.geteuid() == 0,
        namespaces=processes.output(probe) is not None,
        apt=shutil.which("apt-get") is not None,
        missing_packages=_missing_packages(names),
        cache=paths.cache(),
        free_gigabytes=_free(paths.cache()) / 1e9,
        needed_gigabytes=ENOUGH_TO_RUN_GIGABYTES + sum(part.gigabytes for part in builds),
    )


def check(names: Sequence[str]) -> None:
    """Raises if these parts cannot be brought up here."""
    sentence = refusal(facts(names))
    if sentence is not None:
        raise SandboxError(sentence)
    wanted = {registry for name in names for registry in PARTS[name].fetches()}
    wanted |= {"apt"} if _missing_packages(names) else set()
    if wanted:
        with progress.step("checking that the package registries answer"):
            processes.together(*(REGISTRIES[name] for name in sorted(wanted)))


def _missing_packages(names: Sequence[str]) -> list[str]:
    return distribution.missing([program for name in names for program in PARTS[name].programs])


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _ask(client: str, way_out: str, command: processes.Command, **env: str) -> None:
    log = paths.build_logs() / "registries.log"
    try:
        processes.run(["timeout", "120", *command], what=client, log=log, env=env, cwd=Path("/"))
    except SandboxError as error:
        raise SandboxError(f"{client} cannot be reached, but something is missing: {way_out} {error}") from error


def _apt() -> None:
    command = ["apt-get", "update", "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Retries=1"]
    _ask("The package archive of the distribution", "check the network and /etc/apt.", command)


def _pip() -> None:
    command = [sys.executable, "-m", "pip", "--retries=1", "--timeout=20", "index", "versions", "hatchling"]
    _ask("The Python package index", "check the network and `pip config list`.", command)


def _go() -> None:
    if golang.fetches() == {"go"}:
        _ask(
            "The Go module proxy",
            "check the network and `go env GOPROXY`.",
            [golang.program(), "list", "-m", "-versions", "k8s.io/utils"],
            **{**golang.environment(), "GOFLAGS": "-mod=mod"},
        )


def _maven() -> None:
    maven = shutil.which("mvn")
    # Where they are still to be installed, it is too early to ask.
    if maven is not None and not java.fetches():
        # A repository of its own, or it would answer from what was fetched before.
        with tempfile.TemporaryDirectory() as repository:
            _ask(
                "The Maven repository",
                "check the network and ~/.m2/settings.xml.",
                [maven, "--batch-mode", "--quiet", f"-Dmaven.repo.local={repository}", "help:help"],
                **java.maven_environment(),
            )


REGISTRIES: dict[str, Callable[[], None]] = {"apt": _apt, "pip": _pip, "go": _go, "maven": _maven}
