"""Steps that take long are shown with their time; short ones are not."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from sandbox.progress import Reporter, readable


@dataclass
class Log:
    now: float = 0
    text: str = ""
    reporter: Reporter = field(init=False)

    def __post_init__(self) -> None:
        self.reporter = Reporter(write=self.write, terminal=False, clock=lambda: self.now, ticking=False)

    def write(self, text: str) -> None:
        self.text += text

    def at(self, seconds: float) -> None:
        self.now = seconds
        self.reporter.report()


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_short_step_is_silent(log: Log) -> None:
    step = log.reporter.begin("quick")
    log.at(1)
    log.reporter.end(step, failed=False)
    assert log.text == ""


def test_a_long_step_shows_its_beginning_its_progress_and_its_end(log: Log) -> None:
    step = log.reporter.begin("compiling")
    for second in range(0, 65, 1):
        log.at(second)
    log.now = 125
    log.reporter.end(step, failed=False)
    assert log.text.splitlines() == [
        "… compiling",
        "… compiling: 33 s so far",
        "… compiling: 63 s so far",
        "✓ compiling (2 min 5 s)",
    ]


def test_a_failed_step_is_shown_however_short(log: Log) -> None:
    log.reporter.end(log.reporter.begin("starting"), failed=True)
    assert log.text == "✗ starting (0 s)\n"


def test_a_terminal_has_one_line_for_all_that_is_under_way(log: Log) -> None:
    log.reporter.terminal = True
    log.reporter.begin("compiling")
    log.reporter.begin("fetching")
    log.at(5)
    assert log.text.endswith("compiling 5 s · fetching 5 s")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (119.7, "2 min 0 s"), (754, "12 min 34 s")])
def test_times_are_readable(seconds: float, text: str) -> None:
    assert readable(seconds) == text
