"""Says what is going on: every step that lasts longer than two seconds shows its elapsed time.

Lines go to standard error, so that the output of `exec` stays the command's own. On a terminal one line at the bottom
counts the seconds of all steps under way; in a log each long step gets a line at its start, twice a minute and at its
end.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

QUIET_SECONDS = 2.0
HEARTBEAT_SECONDS = 30.0


@dataclass
class Step:
    title: str
    began: float
    announced: float | None = None


@dataclass
class Reporter:
    """Collects the steps under way, from any thread, and prints about them."""

    write: Callable[[str], object]
    terminal: bool
    clock: Callable[[], float] = time.monotonic
    ticking: bool = True
    """Whether a thread of its own calls `report` each second."""
    steps: list[Step] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ticker: threading.Thread | None = None

    def begin(self, title: str) -> Step:
        step = Step(title, self.clock())
        with self.lock:
            self.steps.append(step)
            if self.ticking and self.ticker is None:
                self.ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
                self.ticker.start()
        return step

    def end(self, step: Step, *, failed: bool) -> None:
        with self.lock:
            self.steps.remove(step)
            seconds = self.clock() - step.began
            if failed:
                self._line(f"✗ {step.title} ({readable(seconds)})")
            elif seconds > QUIET_SECONDS:
                self._line(f"✓ {step.title} ({readable(seconds)})")
            elif self.terminal:
                self._status()

    def say(self, text: str) -> None:
        with self.lock:
            self._line(text)

    def report(self) -> None:
        """What the ticker does each second: a fresh status line, or a line about each step that is due for one."""
        with self.lock:
            if self.terminal:
                self._status()
                return
            now = self.clock()
            for step in self.steps:
                if step.announced is None and now - step.began > QUIET_SECONDS:
                    self._line(f"… {step.title}")
                    step.announced = now
                elif step.announced is not None and now - step.announced >= HEARTBEAT_SECONDS:
                    self._line(f"… {step.title}: {readable(now - step.began)} so far")
                    step.announced = now

    def _tick(self) -> None:
        while True:
            time.sleep(1)
            self.report()

    def _line(self, text: str) -> None:
        self.write(f"\r\033[K{text}\n" if self.terminal else f"{text}\n")
        if self.terminal:
            self._status()

    def _status(self) -> None:
        now = self.clock()
        shown = [f"{s.title} {readable(now - s.began)}" for s in self.steps if now - s.began > QUIET_SECONDS]
        self.write("\r\033[K" + " · ".join(shown)[:110])


def readable(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


_reporter = Reporter(write=_write, terminal=sys.stderr.isatty())


@contextmanager
def step(title: str) -> Iterator[None]:
    """Times the block it wraps under `title`; silent when that takes no longer than two seconds."""
    current = _reporter.begin(title)
    try:
        yield
    except BaseException:
        _reporter.end(current, failed=True)
        raise
    _reporter.end(current, failed=False)


def say(text: str) -> None:
    _reporter.say(text)
