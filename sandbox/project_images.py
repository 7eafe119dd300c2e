"""The project's images: built from the Dockerfile on a base image made here, and loaded into the cluster.

No container registry is needed. The base image is what debootstrap makes of this machine's own distribution: the minimum
plus Python. An archive in the cache, named by a digest of all that goes into it, tells whether there is anything to do.
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
DISPENSABLE = ["usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"]


def version() -> str:
    return str(tomllib.loads((paths.PROJECT / "pyproject.toml").read_text())["project"]["version"])


def names() -> dict[str, str]:
    """Target of the Dockerfile → name of its image."""
    return {target: f"{REPOSITORY}/{target}:{version()}" for target in TARGETS}


def base() -> str:
    return f"{REPOSITORY}/base:{distribution.codename() or 'stable'}-{BASE_RECIPE}"


def archive() -> Path:
    """Where the archive of both images is, or will be."""
    digest = caching.digest(*(paths.PROJECT / name for name in (*SOURCES, *FOLDERS)), salt=[base()])
    return paths.cache() / f"images-{digest}" / "images.tar"


def prepare() -> None:
    folder = archive().parent
    caching.built(folder.name, _build)
    for other in paths.cache().glob("images-*"):
        if other != folder:
            shutil.rmtree(other)


def start() -> None:
    """Loads the images unless the cluster has just these."""
    mark = paths.run() / "images"
    if mark.exists() and mark.read_text() == str(archive()):
        return
    with progress.step("loading the project's images"):
        containers.load(archive())
    mark.write_text(str(archive()))


def _build(scratch: Path) -> None:
    log = paths.build_logs() / "images.log"
    if not buildah.exists(base()):
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
