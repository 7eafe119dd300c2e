"""Pulsar standalone: the broker's jars from Maven, one Java process.

The distribution archive is three times as large and comes from a download site; the jars of `pulsar-broker` at run time
scope hold the same standalone starter.
"""

import string
import urllib.request
from pathlib import Path

from sandbox import caching, java, network, paths, processes, progress, versions
from sandbox.daemons import Daemon

NAME = "pulsar"
VARIABLE = "PULSAR_URL"
URL = f"pulsar://{network.NODE}:6650"
ADMIN_URL = f"http://{network.NODE}:8080"

# Packages of the JDK that Pulsar and its libraries reach into.
OPENED = [
    *("java.base/java.io", "java.base/java.lang", "java.base/java.nio", "java.base/java.util.zip"),
    *("java.base/jdk.internal.loader", "java.base/jdk.internal.misc", "java.base/jdk.internal.platform"),
    *("java.base/sun.net", "java.management/sun.management", "jdk.management/com.sun.management.internal"),
]


FOLDER = f"pulsar-{versions.PULSAR}"


def fetches() -> frozenset[str]:
    jars = frozenset() if (paths.cache() / FOLDER).exists() else frozenset({"maven"})
    return jars | java.fetches()


def prepare() -> None:
    java.ensured()
    caching.built(FOLDER, _collect_jars)


def _collect_jars(scratch: Path) -> None:
    with progress.step(f"collecting the jars of Pulsar {versions.PULSAR}"):
        pom = scratch / "pom.xml"
        template = string.Template((paths.TEMPLATES / "pom.xml").read_text())
        pom.write_text(template.substitute(version=versions.PULSAR))
        processes.run(
            [
                *(java.maven(), "--batch-mode", "--no-transfer-progress", "-f", pom, "dependency:copy-dependencies"),
                *(f"-Dmaven.repo.local={paths.build_cache('maven')}", "-DincludeScope=runtime"),
                f"-DoutputDirectory={scratch / 'lib'}",
            ],
            what="collecting the jars of Pulsar with Maven",
            log=paths.build_logs() / "pulsar.log",
            env=java.maven_environment(),
        )


def environment() -> dict[str, str]:
    return {VARIABLE: URL, "PULSAR_ADMIN_URL": ADMIN_URL}


def start() -> None:
    home = paths.run() / "pulsar"
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    configuration = home / "standalone.conf"
    template = string.Template((paths.TEMPLATES / "standalone.conf").read_text())
    configuration.write_text(template.substitute(address=network.NODE))
    daemon = Daemon(NAME, _command(home, configuration), cwd=home)
    with progress.step("starting Pulsar"):
        daemon.start()
        daemon.wait(ready, seconds=180)


def _command(home: Path, configuration: Path) -> processes.Command:
    libraries = paths.cache() / FOLDER / "lib"
    return [
        *(java.ensured() / "bin" / "java", "-Xms256m", "-Xmx768m", "-XX:MaxDirectMemorySize=512m"),
        *(option for package in OPENED for option in ("--add-opens", f"{package}=ALL-UNNAMED")),
        *("-Dio.netty.tryReflectionSetAccessible=true", "-Dpulsar.allocator.exit_on_oom=true"),
        "-XX:-UsePerfData",  # or it would leave files in /tmp when the sandbox ends
        *(f"-Djava.io.tmpdir={home / 'tmp'}", "-cp", f"{libraries}/*", "org.apache.pulsar.PulsarStandaloneStarter"),
        *("--config", configuration, "--advertised-address", network.NODE),
        *("--no-functions-worker", "--no-stream-storage"),
        *("--zookeeper-dir", home / "metadata", "--bookkeeper-dir", home / "ledgers"),
    ]


def ready() -> bool:
    """Healthy, and the namespace that clients use by default exists."""
    try:
        with urllib.request.urlopen(f"{ADMIN_URL}/admin/v2/brokers/health", timeout=10) as response:  # noqa: S310
            healthy = response.read().strip() == b"ok"
        with urllib.request.urlopen(f"{ADMIN_URL}/admin/v2/namespaces/public", timeout=10) as response:  # noqa: S310
            return healthy and b"public/default" in response.read()
    except OSError:
        return False
