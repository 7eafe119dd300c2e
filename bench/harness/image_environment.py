"""Python as the projector's image has it: what `requirements/projector.lock` names and the project, nothing else.

It matters where memory is measured: a library may load another one wherever that is installed (structlog does, with
rich), and the development tools bring many.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.harness.errors import BenchError
from sandbox import caching, paths, processes, progress

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements" / "projector.lock"
PREFIX = "projector-environment-"
SOURCES = (LOCK, ROOT / "pyproject.toml", ROOT / "library", ROOT / "projector", ROOT / "operator")
WHEEL = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir")


def prepare() -> None:
    """Makes it, anew after each change of the project; needs the package registry the first time."""
    with caching.locked():
        for former in set(paths.cache().glob(f"{PREFIX}*")) - {paths.cache() / _name()}:
            shutil.rmtree(former)
        caching.built(_name(), _build)


def projector_program(*, smoke: bool) -> list[str | Path]:
    """The command of the projector there; for a smoke run where it was not prepared, that of the development tools.

    Raises BenchError.
    """
    here = paths.cache() / _name() / "bin"
    if here.exists():
        return [here / "python", here / "outbox-projector"]  # its first line names the folder in which it was built
    if smoke:
        return [Path(sys.executable).with_name("outbox-projector")]
    raise BenchError("the environment of the projector's image is not here yet: start by `make bench`, which makes it")


def _name() -> str:
    return f"{PREFIX}{caching.digest(*SOURCES, salt=[sys.version])}"


def _build(scratch: Path) -> None:
    with progress.step("making the environment of the projector's image"):
        pip = (sys.executable, "-m", "pip")
        into = (*pip, "--python", scratch / "bin" / "python", "install", "--quiet")
        for command in (
            (sys.executable, "-m", "venv", "--without-pip", scratch),
            (*into, "--require-hashes", "-r", LOCK),
            (*pip, *WHEEL, scratch / "wheel", ROOT),
        ):
            _run(command)
        _run((*into, "--no-deps", *(scratch / "wheel").glob("*.whl")))


def _run(command: processes.Command) -> None:
    log = paths.build_logs() / "projector-environment.log"
    processes.run(command, what="making the environment of the projector's image", log=log)
