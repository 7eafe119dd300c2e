"""Each benchmark runs, with small numbers and without goals, so that none rots."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.__main__ import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_last_line_is_its_figures(name: str) -> None:
    command = [sys.executable, "-m", "bench", "--smoke", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures
    assert all(isinstance(value, int | float) for value in figures.values())
