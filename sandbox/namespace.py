"""The private network, mounts, processes and IPC in which everything runs.

A sandbox lives as long as its init process (`init.py`), which `unshare` starts detached from the command that asked for
it. `state.json` says which process that is: by pid, start time and boot, so that a recycled pid is never taken for it.
Commands enter with `nsenter`. Ending the init process makes the kernel end all others, and with them the mounts, the
network and whatever was bound to it; what remains to clear away are control groups and the files below <cache>/run.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from sandbox import paths, processes, progress
from sandbox.errors import SandboxError


@dataclass(frozen=True)
class State:
    """Written by the command that creates the sandbox, read by all others."""

    pid: int
    started: str
    boot: str
    made: list[str]
    """The folders that had to be made on the host as places to mount on."""


def read() -> State | None:
    """The sandbox that was created last, whether it still lives or not."""
    try:
        return State(**json.loads(_file().read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def alive(state: State | None) -> bool:
    return state is not None and state.boot == _boot() and state.started == started(state.pid)


def current() -> State | None:
    """The living sandbox, if there is one."""
    state = read()
    return state if alive(state) else None


def inside() -> bool:
    """Whether this very process runs in the sandbox."""
    return (paths.INSIDE / "cache").exists()


def cgroup_name() -> str:
    """The control group that holds all pods; each cache folder has its own, so two sandboxes do not mix."""
    return "bento-outbox-sandbox-" + hashlib.sha256(str(paths.cache()).encode()).hexdigest()[:8]


def create() -> State:
    """Creates the sandbox, empty, unless there is one."""
    found = current()
    if found is not None:
        return found
    destroy()
    paths.logs().mkdir(parents=True)
    with progress.step("creating the private network"):
        made = [folder for folder in paths.PRIVATE if not Path(folder).exists()]
        # Recorded before anything is made, so that `down` can undo it after an interruption.
        write(State(0, "", "", made))
        for folder in made:
            Path(folder).mkdir(parents=True)
        for group in _cgroups():
            group.mkdir(exist_ok=True)
        pid = _start_init()
        state = State(pid, started(pid), _boot(), made)
        write(state)
    return state


def _start_init() -> int:
    log = paths.logs() / "init.log"
    ready = paths.run() / "ready"
    with log.open("ab") as output, open("/proc/self/ns/net") as outside:
        parent = subprocess.Popen(
            [
                *("unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "sandbox.init", paths.cache(), ready, str(outside.fileno())),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            pass_fds=[outside.fileno()],
            env={**os.environ, "PYTHONPATH": str(paths.PROJECT)},
        )
    deadline = time.monotonic() + 30
    try:
        while not ready.exists():
            if parent.poll() is not None:
                raise SandboxError(f"The private network could not be created. {processes.tail(log)}")
            if time.monotonic() > deadline:
                raise SandboxError(f"The private network was not there after 30 s. {processes.tail(log)}")
            time.sleep(0.02)
    except BaseException:
        parent.kill()
        raise
    return int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()[0])


def entering(state: State, command: processes.Command) -> list[str]:
    """The command line that runs `command` in the sandbox; it ends when its caller does."""
    return [
        *("nsenter", f"--target={state.pid}", "--net", "--mount", "--pid", "--ipc", f"--wd={os.getcwd()}"),
        *("setpriv", "--pdeathsig", "TERM", "--", *map(str, command)),
    ]


def destroy() -> bool:
    """Ends the sandbox and removes what it left; whether there was anything."""
    state = read()
    if state is None and not paths.run().exists():
        return False
    if state is not None and alive(state):
        os.kill(state.pid, signal.SIGKILL)
        _gone(state)
    _remove_cgroups()
    for folder in reversed(state.made if state else []):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    # The state goes last: until then another `down` knows what is left to do.
    for entry in paths.run().iterdir():
        if entry != _file():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    shutil.rmtree(paths.run())
    return True


def _gone(state: State) -> None:
    deadline = time.monotonic() + 30
    while alive(state):
        if time.monotonic() > deadline:
            raise SandboxError(f"The sandbox's process {state.pid} does not end; look at it with `ps -p {state.pid}`.")
        time.sleep(0.05)


def _cgroups() -> list[Path]:
    """Where the pods' control group is: once with version 2, once in each hierarchy with version 1."""
    top = Path("/sys/fs/cgroup")
    hierarchies = [top] if (top / "cgroup.procs").exists() else [p.parent for p in top.glob("*/cgroup.procs")]
    return [hierarchy / cgroup_name() for hierarchy in hierarchies]


def _remove_cgroups() -> None:
    """Control groups are folders that can only be removed from the leaves up, when no process is left in them."""
    for root in _cgroups():
        if root.exists():
            for folder in sorted((p for p in root.rglob("*") if p.is_dir()), reverse=True):
                _remove_cgroup(folder)
            _remove_cgroup(root)


def _remove_cgroup(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SandboxError(f"The control group {folder} cannot be removed: {error.strerror}.") from error
            time.sleep(0.05)


def started(pid: int) -> str:
    """When a process began, in the kernel's own count since boot; empty when there is no such process (or a zombie)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _file() -> Path:
    return paths.run() / "state.json"


def write(state: State) -> None:
    scratch = _file().with_suffix(".partial")
    scratch.write_text(json.dumps(asdict(state)))
    scratch.rename(_file())
