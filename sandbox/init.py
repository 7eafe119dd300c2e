"""The first process of the sandbox: sets its namespaces up, then only reaps what its children leave behind.

Runs as `python -m sandbox.init <cache> <ready> <fd>`: creates the file <ready> when all is set up; <fd> is the host's
network namespace. It imports nothing but the
standard library and names of files and addresses: it stays in memory for as long as the sandbox lives.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from sandbox import network, paths


def main(cache: Path, ready: Path, outside: int) -> None:
    # Blocked before anything is started, so that no end of a child is missed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    mounts(cache, outside)
    interfaces()
    ready.touch()
    while True:
        signal.sigwait({signal.SIGCHLD})
        reap()


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def mounts(cache: Path, outside: int) -> None:
    """Private places for what daemons write outside the cache, and a way into the cache that any account may go."""
    run = cache / "run"
    call("mount", "-t", "tmpfs", "-o", "mode=755", "sandbox", "/run")
    call("mount", "-t", "tmpfs", "-o", "mode=1777", "sandbox", "/dev/shm")  # noqa: S108
    for folder in paths.PRIVATE:
        private = run / "private" / folder.strip("/").replace("/", "-")
        private.mkdir(parents=True)
        call("mount", "--bind", private, folder)
    (paths.INSIDE / "cache").mkdir(parents=True)
    call("mount", "--bind", cache, paths.INSIDE / "cache")
    paths.OUTSIDE_NETWORK.touch()
    call("mount", "--bind", f"/proc/{os.getpid()}/fd/{outside}", paths.OUTSIDE_NETWORK)
    os.close(outside)


def interfaces() -> None:
    """A bridge serves as the node's interface (not every kernel has dummy ones); services are routed to it, too."""
    for line in (
        "link set lo up",
        "link add node0 type bridge",
        f"address add {network.NODE_NETWORK} dev node0",
        "link set node0 up",
        f"route add {network.SERVICE_NETWORK} dev node0",
    ):
        call("ip", *line.split())
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def call(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
