"""A process that is measured: what it keeps in memory and how much CPU it has used, as the kernel counts it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bench.harness.errors import BenchError

TICKS = os.sysconf("SC_CLK_TCK")


class Measured(Protocol):
    """What is timed while it works."""

    def check(self) -> None:
        """Raises BenchError if it has ended."""
        ...

    def cpu_seconds(self) -> float:
        """User and system, of all threads, since the start."""
        ...


class Process:
    """Runs a program; stopped at the end of the block."""

    def __init__(self, command: Sequence[str | Path], *, env: Mapping[str, str], log: Path, cwd: Path) -> None:
        self._log = log
        self.began = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command], env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def resident_megabytes(self, *, peak: bool = False) -> float:
        """In MiB, now; or the most there ever was."""
        field = "VmHWM:" if peak else "VmRSS:"
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))

    def cpu_seconds(self) -> float:
        """User and system, of all threads, since the start."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def check(self) -> None:
        """Raises BenchError if it has ended."""
        if (code := self._process.poll()) is not None:
            tail = "\n    ".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise BenchError(f"{Path(str(self._process.args[0])).name} ended with code {code}:\n    {tail}")  # type: ignore[index] # a list

    def stop(self, *, seconds: float = 30) -> None:
        """SIGTERM, and SIGKILL when that takes too long."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@dataclass(frozen=True)
class Together:
    """Several processes that share one piece of work."""

    processes: Sequence[Process]

    def check(self) -> None:
        """Raises BenchError if one has ended."""
        for process in self.processes:
            process.check()

    def cpu_seconds(self) -> float:
        """Of all."""
        return sum(process.cpu_seconds() for process in self.processes)
