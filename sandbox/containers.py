"""containerd inside the sandbox: its own sockets, content and network plugins, none of them the host's."""

import shutil
import string
from pathlib import Path

from sandbox import buildah, caching, components, network, paths, processes
from sandbox.daemons import Daemon
from sandbox.errors import SandboxError

PAUSE = "localhost/bento-outbox/pause:1"


def prepare() -> None:
    caching.built(pause_archive().parent.name, _build_pause)


def pause_archive() -> Path:
    """The archive of the image that holds a pod's namespaces open; its program is one of those compiled here."""
    return paths.cache() / f"pause-{components.folder().name.rpartition('-')[2]}" / "pause.tar"


def _build_pause(scratch: Path) -> None:
    log = paths.build_logs() / "images.log"
    shutil.copy(components.folder() / "pause", scratch / "pause")
    buildah.build(scratch, file=paths.TEMPLATES / "pause.Dockerfile", tag=PAUSE, log=log)
    buildah.archive([PAUSE], scratch / "pause.tar", log=log)


def start() -> Daemon:
    home = paths.run() / "containerd"
    (home / "cni").mkdir(parents=True, exist_ok=True)
    _fill("bridge.conflist", home / "cni" / "10-bridge.conflist", data=home / "addresses", pods=network.POD_NETWORK)
    _fill(
        "containerd.toml",
        home / "containerd.toml",
        data=home / "data",
        pause=PAUSE,
        plugins=_plugins(),
        configuration=home / "cni",
    )
    daemon = Daemon("containerd", ["containerd", "--config", home / "containerd.toml"])
    daemon.start()
    return daemon


def answers() -> bool:
    return processes.output(["ctr", "version"]) is not None


def load(archive: Path) -> None:
    """Makes the images of an archive known to the cluster."""
    processes.run(
        ["ctr", "--namespace=k8s.io", "images", "import", archive],
        what=f"loading {archive.name}",
        log=paths.logs() / "images.log",
    )


def known() -> set[str]:
    """The names of the images the cluster has."""
    return set((processes.output(["ctr", "--namespace=k8s.io", "images", "list", "--quiet"]) or "").split())


def _plugins() -> Path:
    for folder in (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni")):
        if (folder / "bridge").exists():
            return folder
    raise SandboxError("The CNI plugins are missing; install the package containernetworking-plugins.")


def _fill(template: str, target: Path, **values: object) -> None:
    text = (paths.TEMPLATES / template).read_text()
    target.write_text(string.Template(text).substitute({key: str(value) for key, value in values.items()}))
