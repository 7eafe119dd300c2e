"""Builds images without a daemon, with storage of its own in the cache.

Every call runs in a mount namespace of its own and with fresh run-time state, so that one that is interrupted leaves no
mount behind and nothing that the next one could take for still mounted. Package managers within a build reach the
network as those of this machine do: they get its CA bundle and its pip configuration.
"""

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sandbox import namespace, paths, processes

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_one_at_a_time = threading.Lock()


def present(image: str) -> bool:
    """Whether an image has been built; also asked before buildah itself is there."""
    with _command() as buildah:
        return processes.output([*buildah, "inspect", "--type=image", "--format={{.FromImage}}", image]) is not None


def build(
    context: Path,
    *,
    file: Path,
    tag: str,
    log: Path,
    target: str | None = None,
    arguments: Mapping[str, str] | None = None,
) -> None:
    """Builds `file` up to `target` as `tag`; steps whose input is unchanged are not run again."""
    with _command() as buildah, _folder() as scratch:
        # Containers of builds that were interrupted.
        processes.output([*buildah, "rm", "--all"])
        processes.run(
            [
                *(*buildah, "build", "--layers", "--isolation=chroot", "--network=host", "--pull-never"),
                f"--file={file}",
                *([f"--target={target}"] if target else []),
                *(f"--build-arg={name}={value}" for name, value in (arguments or {}).items()),
                *(f"--volume={volume}" for volume in _network_files(Path(scratch))),
                *(f"--tag={tag}", context),
            ],
            what=f"building the image {tag}",
            log=log,
        )


def archive(tags: Sequence[str], target: Path, *, log: Path) -> None:
    """Writes the images into one OCI archive, in which layers that they share are held once."""
    layout = target.with_suffix(".layout")
    shutil.rmtree(layout, ignore_errors=True)
    with _command() as buildah:
        for tag in tags:
            processes.run(
                [*buildah, "push", "--quiet", "--disable-compression", tag, f"oci:{layout}:{tag}"],
                what=f"exporting the image {tag}",
                log=log,
            )
    tar = ["tar", "--create", f"--file={target}", f"--directory={layout}", "."]
    processes.run(tar, what="writing the archive", log=log)
    shutil.rmtree(layout)


@contextmanager
def _command() -> Iterator[list[str | Path]]:
    """The beginning of a buildah command line."""
    with _one_at_a_time, _folder() as state:
        outside = ["nsenter", f"--net={paths.OUTSIDE_NETWORK}"] if namespace.inside() else []
        storage = paths.build_cache("buildah") / "storage"
        yield [
            *(*outside, "unshare", "--mount", "env", f"TMPDIR={paths.temporary()}", "buildah"),
            *("--root", storage, "--runroot", state, "--storage-driver=overlay"),
        ]


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=paths.temporary(), ignore_cleanup_errors=True)


def _network_files(scratch: Path) -> list[str]:
    """What a build step needs from this machine to reach a package registry, as volumes."""
    bundles = [os.environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")]
    bundle = next((b for b in [*bundles, BUNDLE] if b and Path(b).is_file()), None)
    options = pip_options(processes.output([sys.executable, "-m", "pip", "config", "list"]) or "")
    if bundle:
        options["cert"] = BUNDLE
    configuration = scratch / "pip.conf"
    configuration.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
    folders = [f for f in options.get("find-links", "").split() if f.startswith("/") and Path(f).is_dir()]
    return [
        f"{configuration}:/etc/pip.conf:ro",
        *([f"{bundle}:{BUNDLE}:ro"] if bundle else []),
        *(f"{folder}:{folder}:ro" for folder in folders),
    ]


def pip_options(listing: str) -> dict[str, str]:
    """The options in what `pip config list` prints, the environment's over those of files."""
    options: dict[str, dict[str, str]] = {"global": {}, ":env:": {}}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in options:
            options[section][option] = value.strip("'\"").replace("\\n", " ")
    return {**options["global"], **options[":env:"]}
