"""Programs that come from the distribution: containerd and what goes with it have no other packaging that fits here."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import paths, processes, progress
from sandbox.errors import SandboxError


@dataclass(frozen=True)
class Program:
    package: str
    """Its name in Debian and Ubuntu."""
    files: tuple[str, ...]
    """It is there if any of these is: names of programs on the path, or full paths."""

    def present(self) -> bool:
        return any(Path(f).exists() if f.startswith("/") else shutil.which(f) for f in self.files)


IPROUTE = Program("iproute2", ("ip",))
PGBOUNCER = Program("pgbouncer", ("pgbouncer", "/usr/sbin/pgbouncer"))
MAVEN = Program("maven", ("mvn",))
CONTAINERD = Program("containerd", ("containerd",))
RUNC = Program("runc", ("runc",))
CNI = Program("containernetworking-plugins", ("/usr/lib/cni/bridge", "/opt/cni/bin/bridge", "/usr/libexec/cni/bridge"))
IPTABLES = Program("iptables", ("iptables",))
CONNTRACK = Program("conntrack", ("conntrack",))
OPENSSL = Program("openssl", ("openssl",))
BUILDAH = Program("buildah", ("buildah",))
DEBOOTSTRAP = Program("debootstrap", ("debootstrap",))


def missing(programs: Sequence[Program]) -> list[str]:
    return sorted({program.package for program in programs if not program.present()})


def install(packages: Sequence[str]) -> None:
    """Installs packages with apt, as far as they are given; call it as root."""
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise SandboxError(f"This is neither Debian nor Ubuntu: install {', '.join(packages)} by its own means.")
    log = paths.build_logs() / "apt.log"
    env = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with progress.step(f"installing {', '.join(packages)}"):
        # Repairs what an interruption has left, and does nothing otherwise.
        processes.run(["dpkg", "--configure", "-a"], what="dpkg --configure -a", log=log, env=env)
        processes.run(["apt-get", "update"], what="apt-get update", log=log, env=env)
        processes.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", *packages],
            what=f"installing {', '.join(packages)} with apt-get",
            log=log,
            env=env,
        )


def release() -> dict[str, str]:
    """What this distribution says of itself: ID (`debian`), VERSION_CODENAME (`bookworm`) and more."""
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}


def codename() -> str | None:
    """The name of this release (`bookworm`, `noble`), where debootstrap knows it."""
    return release().get("VERSION_CODENAME") if release().get("ID") in ("debian", "ubuntu") else None


def components() -> str:
    """The sections of the archive that have Python's venv module."""
    return "main,universe" if release().get("ID") == "ubuntu" else "main"


def mirror() -> str | None:
    """The address this machine takes its packages of the main archive from, as apt is configured."""
    if codename() is None:
        return None
    listing = processes.output(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)"]) or ""
    wanted = [codename(), "main"]
    return next((line.split()[0] for line in listing.splitlines() if line.split()[1:] == wanted), None)
