"""Runs programs: one to its end (`run`), several jobs side by side (`together`), or as a daemon (`daemon`).

A program that runs to its end writes into a log file; when it fails, the error shows the log's last lines and its path.
Whatever is still running when the command is interrupted is ended with it: each program has its own process group,
which gets a SIGTERM, and the kernel ends it (`--pdeathsig`) should this process be killed without a chance to do so.
"""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from sandbox.errors import SandboxError

_running: set[subprocess.Popen[bytes]] = set()
_stopping = threading.Event()

Command = Sequence[str | Path]


def run(
    command: Command,
    *,
    what: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Runs `command` to its end, its output appended to `log`; `what` names it in the error."""
    if _stopping.is_set():
        raise SandboxError(f"{what} was not begun: something else failed first.")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        _running.add(process)
        try:
            code = process.wait()
        except BaseException:
            _end(process)
            raise
        finally:
            _running.discard(process)
    if code != 0:
        raise SandboxError(f"{what} failed (exit code {code}). {tail(log)}")


def output(command: Command, *, env: Mapping[str, str] | None = None, seconds: float = 60) -> str | None:
    """What `command` prints, or None when it cannot be started, fails or takes too long."""
    try:
        result = subprocess.run(
            list(map(str, command)),
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout + result.stderr


def together(*jobs: Callable[[], None]) -> None:
    """Runs the jobs side by side; the first that fails ends the programs of the others, and its error is raised."""
    with ThreadPoolExecutor(max_workers=max(len(jobs), 1)) as pool:
        futures = [pool.submit(job) for job in jobs]
        try:
            done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((f for f in done if f.exception()), None)
            if failed is not None:
                end_all()
                failed.result()
            assert not waiting
        except BaseException:
            end_all()
            raise


def end_all() -> None:
    """Ends every program that `run` waits for, and lets no new one begin."""
    _stopping.set()
    for process in list(_running):
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, and where all of it is, to end an error with."""
    try:
        last = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        last = []
    quoted = "".join(f"\n    {line[:300]}" for line in last)
    return f"The log is {log}" + (f" and ends:{quoted}" if quoted else ".")
