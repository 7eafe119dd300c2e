"""The project's images: built from the Dockerfile on a base image made here, and loaded into the cluster.

No container registry is needed. The base image is what debootstrap makes of this machine's own distribution: the
minimum plus Python. An archive in the cache, named by a digest of all that goes into it, tells whether there is
anything to do.
"""

import shutil
import tomllib
from pathlib import Path

from sandbox import buildah, caching, containers, distribution, paths, processes, progress

NAME = "images"
REPOSITORY = "localhost/bento-outbox"
TARGETS = ("operator", "projector")
SOURCES = ["Dockerfile", ".dockerignore", "pyproject.toml", "README.md", "LICENSE"]
FOLDERS = ["requirements", "library", "projector", "operator"]

# Counts up when the recipe of the base image changes.
BASE_RECIPE = "1"
DISPENSABLE = [
    *("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale"),
    *("var/cache/apt", "var/lib/apt/lists"),
]


def version() -> str:
    return str(tomllib.loads((paths.PROJECT / "pyproject.toml").read_text())["project"]["version"])


def names() -> dict[str, str]:
    """Target of the Dockerfile → name of its image."""
    return {target: f"{REPOSITORY}/{target}:{version()}" for target in TARGETS}


def base() -> str:
    return f"{REPOSITORY}/base:{distribution.codename() or 'stable'}-{BASE_RECIPE}"


def fetches() -> frozenset[str]:
    if _wanted().exists():
        return frozenset()
    return frozenset({"pip"}) if buildah.present(base()) else frozenset({"pip", "apt"})


def prepare() -> None:
    """Builds what the sources of this moment ask for, and forgets what earlier ones asked for."""
    folder = caching.built(_wanted().name, _build)
    for other in _folders():
        if other != folder:
            shutil.rmtree(other)


def start() -> None:
    """Loads what was prepared, unless the cluster has just that. (Sources that changed since are for the next time.)"""
    folder = _folders()[-1]
    mark = paths.run() / "images"
    if mark.exists() and mark.read_text() == folder.name:
        return
    with progress.step("loading the project's images"):
        containers.load(folder / "images.tar")
    mark.write_text(folder.name)


def ready() -> bool:
    return (paths.run() / "images").exists()


def _wanted() -> Path:
    digest = caching.digest(*(paths.PROJECT / name for name in (*SOURCES, *FOLDERS)), salt=[base()])
    return paths.cache() / f"images-{digest}"


def _folders() -> list[Path]:
    return sorted(paths.cache().glob("images-*"), key=lambda folder: folder.stat().st_mtime)


def _build(scratch: Path) -> None:
    log = paths.build_logs() / "images.log"
    if not buildah.present(base()):
        _build_base(log)
    for target, name in names().items():
        with progress.step(f"building the image of the {target}"):
            buildah.build(
                paths.PROJECT,
                file=paths.PROJECT / "Dockerfile",
                target=target,
                tag=name,
                arguments={"BASE_IMAGE": base(), "VERSION": version()},
                log=log,
            )
    with progress.step("exporting the project's images"):
        buildah.archive(list(names().values()), scratch / "images.tar", log=log)


def _build_base(log: Path) -> None:
    scratch = paths.cache() / ".base.partial"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    mirror = distribution.mirror()
    with progress.step("building the base image"):
        processes.run(
            [
                # Its mounts end with it, even when it is interrupted.
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates"),
                *(f"--components={distribution.components()}", distribution.codename() or "stable", scratch / "root"),
                *([mirror] if mirror else []),
            ],
            what="debootstrap",
            log=log,
        )
        for folder in DISPENSABLE:
            shutil.rmtree(scratch / "root" / folder, ignore_errors=True)
        (scratch / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")
        buildah.build(scratch, file=scratch / "Dockerfile", tag=base(), log=log)
    shutil.rmtree(scratch)
