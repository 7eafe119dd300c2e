"""Debezium Server, from its Maven artifact: what benchmarks compare with. No part of the sandbox: fetched on demand.

Java 21 or newer runs it, from the wheel where the machine's is older.
"""

from pathlib import Path

from sandbox import caching, distribution, java, paths, processes, progress, versions

FOLDER = f"debezium-{versions.DEBEZIUM}"
ARTIFACT = f"io.debezium:debezium-server-dist:{versions.DEBEZIUM}:tar.gz"
HEAP = "-Xmx512m"
"""Without it Java takes a quarter of the machine's memory. More makes it no faster."""


def prepared() -> bool:
    """Whether it is in the cache; a benchmark in the sandbox has no network to fetch it."""
    return (paths.cache() / FOLDER).exists()


def prepare() -> None:
    """Fetches it: some 800 MB, and as much again on disk."""
    with caching.locked():
        distribution.install(distribution.missing([distribution.MAVEN]))
        java.ensured(versions.DEBEZIUM_JAVA)
        caching.built(FOLDER, _fetch)


def _fetch(scratch: Path) -> None:
    with progress.step(f"fetching Debezium Server {versions.DEBEZIUM}"):
        processes.run(
            [
                *(java.maven(), "--batch-mode", "--no-transfer-progress", "dependency:unpack"),
                *(f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={scratch}"),
                f"-Dmaven.repo.local={paths.build_cache('maven')}",
            ],
            what="fetching Debezium Server with Maven",
            log=paths.build_logs() / "debezium.log",
            env=java.maven_environment(),
            cwd=scratch,
        )


def command() -> processes.Command:
    """Starts it as its own `run.sh` does, configured by `config/application.properties` in the working folder."""
    home = paths.cache() / FOLDER / "debezium-server"
    runner = next(home.glob("debezium-server-*-runner.jar"))
    program = java.ensured(versions.DEBEZIUM_JAVA) / "bin" / "java"
    return [program, HEAP, "-cp", f"{runner}:{home / 'lib'}/*", "io.debezium.server.Main"]
