"""Starts the daemons of a part inside the sandbox and waits until they are ready.

A daemon is known by its pid file, which the process itself writes just before it becomes the daemon: there is no moment
at which it runs unrecorded. So a start that was interrupted is taken up again: a daemon that lives is waited for, one
that does not is started. Inside the sandbox's own process namespace all others are gone with it.
"""

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sandbox import paths, processes
from sandbox.errors import SandboxError


@dataclass(frozen=True)
class Daemon:
    name: str
    command: processes.Command
    user: str | None = None
    """The account it runs as; root when None."""
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None

    @property
    def log(self) -> Path:
        return paths.logs() / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        return paths.run() / "pid" / self.name

    def running(self) -> bool:
        try:
            pid = int(self.pid_file.read_text())
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (OSError, ValueError):
            return False
        return f"SANDBOX_DAEMON={self.name}\0".encode() in environment

    def start(self) -> None:
        """Starts it unless it runs."""
        if self.running():
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            subprocess.Popen(
                ["sh", "-c", 'echo $$ > "$0"; exec "$@"', self.pid_file, *as_user(self.user), *map(str, self.command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env, "SANDBOX_DAEMON": self.name},
                cwd=self.cwd or "/",
                start_new_session=True,
            )

    def wait(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Returns once `ready()`; raises when the daemon ends before, or the time is up."""
        deadline = time.monotonic() + seconds
        ended = 0
        while not ready():
            # Several times in a row: it may not have come as far as its pid file yet.
            ended = 0 if self.running() else ended + 1
            if ended > 5:
                raise SandboxError(f"{self.name} ended before it was ready. {processes.tail(self.log)}")
            if time.monotonic() > deadline:
                raise SandboxError(f"{self.name} was not ready after {seconds:.0f} s. {processes.tail(self.log)}")
            time.sleep(0.1)


def until(ready: Callable[[], bool], *, what: str, seconds: float, log: Path) -> None:
    """Waits for something that no single daemon answers for."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise SandboxError(f"{what} after {seconds:.0f} s. {processes.tail(log)}")
        time.sleep(0.2)


def as_user(name: str | None) -> list[str]:
    """The prefix of a command line that runs it under another account."""
    if name is None:
        return []
    account = pwd.getpwnam(name)
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
