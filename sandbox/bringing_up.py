"""The one way to a running sandbox, for `up`, `exec` and `shell` alike: check, build, create, start."""

import os
import subprocess
import sys
from collections.abc import Sequence

from sandbox import caching, distribution, inside, namespace, paths, processes
from sandbox.errors import SandboxError
from sandbox.parts import PARTS


def bring_up(names: Sequence[str]) -> None:
    """Makes the parts run; returns when each is ready."""
    with caching.locked():
        distribution.install(distribution.missing([program for name in names for program in PARTS[name].programs]))
        processes.together(*(PARTS[name].prepare for name in names))
        if namespace.inside():
            inside.start(list(names))
            return
        state = namespace.create()
        command = namespace.entering(state, [sys.executable, "-m", "sandbox.inside", *names])
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(paths.PROJECT)}, check=False).returncode
    if code != 0:
        # It has said why.
        raise SystemExit(code if code > 0 else 1)


def environment(names: Sequence[str]) -> dict[str, str]:
    """The variables for a command that uses these parts."""
    parts = [PARTS[name] for name in names]
    variables = {key: value for part in parts for key, value in part.environment().items()}
    folders = [str(folder) for part in parts for folder in part.path()]
    return {**variables, "PATH": os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])}


def become(command: Sequence[str], names: Sequence[str]) -> None:
    """Replaces this process by `command`, in the sandbox if any of its parts is used."""
    variables = {**os.environ, **environment(names)}
    if names and not namespace.inside():
        state = namespace.current()
        if state is None:
            raise SandboxError("The sandbox has gone down meanwhile; try again.")
        command = namespace.entering(state, command)
    try:
        os.execvpe(command[0], list(command), variables)  # noqa: S606
    except FileNotFoundError:
        raise SandboxError(f"There is no program {command[0]!r}.") from None
