"""Builds appear in the cache all at once, or not at all.

A build writes into a scratch folder beside its destination and is renamed into place when it is complete. So what
exists is complete, an interrupted build leaves only a scratch folder that the next try clears away, and no marker files
or checks of content are needed. One lock covers all changes: two commands never build or start the same thing twice.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox import paths, progress


def built(name: str, build: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache; made by `build(scratch)` if it does not exist yet. Call it under `locked()`."""
    target = paths.cache() / name
    if target.exists():
        return target
    scratch = paths.cache() / f".{name}.partial"
    if scratch.exists():
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True)
    build(scratch)
    scratch.rename(target)
    return target


def tidy() -> None:
    """Removes what interrupted builds have left, whatever their version. Call it under `locked()`."""
    for scratch in [*paths.cache().glob(".*.partial"), paths.temporary()]:
        shutil.rmtree(scratch, ignore_errors=True)


def digest(*roots: Path, salt: Iterable[str] = ()) -> str:
    """A short name for the content of some files and folders (names and bytes; no times, no permissions)."""
    result = hashlib.sha256()
    for text in salt:
        result.update(f"{text}\0".encode())
    for root in roots:
        files = sorted(p for p in root.rglob("*") if p.is_file()) if root.is_dir() else [root]
        for file in files:
            if "__pycache__" in file.parts:
                continue
            name = file.relative_to(root.parent).as_posix()
            result.update(f"{name}\0{file.stat().st_size}\0".encode())
            result.update(file.read_bytes())
    return result.hexdigest()[:12]


@contextmanager
def locked() -> Iterator[None]:
    """Holds the machine-wide lock of this cache; waits, and says so, while another command has it."""
    paths.cache().mkdir(parents=True, exist_ok=True)
    with (paths.cache() / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            with progress.step(f"waiting for another sandbox command (process {file.read().strip() or '?'})"):
                fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
