"""Errors of programs show what the program said last, and where all of it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import processes
from sandbox.errors import SandboxError


def test_a_failing_program_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    message = rf"building it failed \(exit code 3\)\. The log is {log} and ends:\n    two"
    with pytest.raises(SandboxError, match=message):
        processes.run(["sh", "-c", "echo two; exit 3"], what="building it", log=log)


def test_a_program_that_does_not_exist_has_no_output() -> None:
    assert processes.output(["/nowhere/program"]) is None


def test_output_of_a_failing_program_is_not_used() -> None:
    assert processes.output(["sh", "-c", "echo yes; exit 1"]) is None


def test_a_log_that_does_not_exist_is_still_named(tmp_path: Path) -> None:
    assert processes.tail(tmp_path / "none.log") == f"The log is {tmp_path / 'none.log'}."


def test_jobs_side_by_side_all_run(tmp_path: Path) -> None:
    processes.together(*[(tmp_path / name).touch for name in "abc"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
