"""The one way to a running sandbox, for `up`, `exec` and `shell` alike: check, build, create, start."""

import os
import subprocess
import sys
from collections.abc import Sequence

from sandbox import caching, distribution, inside, namespace, network, paths, preflight, processes, rules
from sandbox.errors import SandboxError
from sandbox.parts import PARTS
from sandbox.rules import Plan


def plan(requested: Sequence[str]) -> Plan:
    """What is to be done here for these parts (none means all)."""
    return rules.plan(requested, os.environ, resolve=network.address_of)


def bring_up(wanted: Plan) -> None:
    """Makes the parts run; returns when each is ready."""
    if not wanted.start:
        return
    names = wanted.start
    if not namespace.inside():
        preflight.check(names)
    with caching.locked():
        caching.tidy()
        distribution.install(distribution.missing([program for name in names for program in PARTS[name].programs]))
        processes.together(*(PARTS[name].prepare for name in names))
        if namespace.inside():
            inside.start(wanted)
            return
        state = namespace.create()
        command = namespace.entering(state, [sys.executable, "-m", "sandbox.inside", inside.encoded(wanted)])
        code = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(paths.PROJECT)}, check=False).returncode
    if code != 0:
        # It has said why.
        raise SystemExit(code if code > 0 else 1)


def environment(used: Plan) -> dict[str, str]:
    """The variables for a command that uses these parts."""
    parts = [PARTS[name] for name in used.start]
    variables = {key: value for part in parts for key, value in part.environment().items()}
    relayed = {relay.variable: relay.url for relay in used.relays}
    folders = [str(folder) for part in parts for folder in part.path()]
    return {**variables, **relayed, "PATH": os.pathsep.join([*folders, os.environ.get("PATH", os.defpath)])}


def become(command: Sequence[str], used: Plan) -> None:
    """Replaces this process by `command`, in the sandbox if any of its parts is used."""
    variables = {**os.environ, **environment(used)}
    if used.start and not namespace.inside():
        state = namespace.current()
        if state is None:
            raise SandboxError("The sandbox has gone down meanwhile; try again.")
        command = namespace.entering(state, command)
    try:
        os.execvpe(command[0], list(command), variables)  # noqa: S606 - replacing this process is the point
    except FileNotFoundError:
        raise SandboxError(f"There is no program {command[0]!r}.") from None
