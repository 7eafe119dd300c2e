"""Each benchmark of Postgres and Pulsar runs, with small numbers and without goals, so that none rots."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from bench.__main__ import INSIDE, NAMES, benchmark

HERE = {"postgres", "pulsar"}


@pytest.mark.timeout(400)  # Debezium Server, which some compare with, takes long to start on a busy machine
@pytest.mark.parametrize("name", [name for name in NAMES if HERE.issuperset(benchmark(name).PARTS)])
def test_the_last_line_is_its_figures(name: str) -> None:
    command = [sys.executable, "-m", "bench", "--smoke", name]
    done = subprocess.run(command, env={**os.environ, INSIDE: "1"}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures
    assert all(isinstance(value, int | float) for value in figures.values())
