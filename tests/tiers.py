"""Runs the test tiers one after the other and says at the end how each went. `make test` runs all of them.

A tier that this machine cannot run is named in the last lines, with the reason. In CI (CI=true) that is a failure:
a green run there means that everything ran.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sandbox import rules


@dataclass(frozen=True)
class Tier:
    """Commands, run in the sandbox when the tier needs some of its parts."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    parts: tuple[str, ...] = ()
    enters_by_itself: bool = False
    """The commands go into the sandbox on their own, after they have built what they need where there is a network."""


TIERS = (
    Tier(
        "check",
        (
            ("ruff", "check", "."),
            ("ruff", "format", "--check", "."),
            ("mypy",),
            ("lint-imports",),
            ("pytest", "tests/architecture"),
        ),
    ),
    Tier("unit", (("pytest", "tests/unit"),)),
    Tier("contract", (("pytest", "tests/contract"),), ("postgres", "pulsar")),
    Tier("integration", (("pytest", "tests/integration"),), ("postgres", "pulsar")),
    Tier("e2e", (("pytest", "tests/e2e"),), ("postgres", "pulsar", "kubernetes", "images")),
    # With small numbers, so that it does not rot; the benchmarks without a cluster run among the integration tests.
    Tier("bench", (("python", "-m", "bench", "--smoke", "operator"),), ("kubernetes",), enters_by_itself=True),
)


def main(names: list[str]) -> int:
    """Runs the named tiers, or all. Exit code 1 if one failed, or in CI if one could not run."""
    known = {tier.name: tier for tier in TIERS}
    if unknown := [name for name in names if name not in known]:
        print(f"tiers: there is no tier {unknown[0]!r}: choose from {', '.join(known)}", file=sys.stderr)
        return 2
    outcomes = [(name, *run(known[name])) for name in names or known]
    print()
    for name, outcome, seconds in outcomes:
        print(f"{name:12} {outcome}  ({seconds:.0f} s)")
    accepted = ("passed",) if os.environ.get("CI") else ("passed", "NOT RUN")
    return 0 if all(outcome.startswith(accepted) for _, outcome, _ in outcomes) else 1


def run(tier: Tier) -> tuple[str, float]:
    """How the tier went, in a word, and how long it took in seconds."""
    began = time.monotonic()
    print(f"\n=== {tier.name}", flush=True)
    outcome = "passed"
    if obstacle := rules.obstacle(tier.parts, os.environ):
        outcome = f"NOT RUN: {obstacle}"
    else:
        enter = [sys.executable, "-m", "sandbox", "exec", "--parts", ",".join(tier.parts), "--"]
        sandbox = enter if tier.parts and not tier.enters_by_itself else []
        for command in tier.commands:
            print(f"--- {' '.join(command)}", flush=True)
            if subprocess.run([*sandbox, _installed(command[0]), *command[1:]], check=False).returncode != 0:
                outcome = f"FAILED: {' '.join(command)}"
                break
    return outcome, time.monotonic() - began


def _installed(name: str) -> str:
    """The command of this virtual environment: what runs is what the lock file installed."""
    return str(Path(sys.executable).with_name(name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
