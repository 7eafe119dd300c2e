"""`python -m bench [--smoke] NAME…`: runs benchmarks; each ends with its figures as one JSON object.

On the host each is started again in the sandbox, with the parts that it names; what it wants to have built before
(`prepare`) is built where there is a network.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from types import ModuleType

import click

import bench
from bench.figures import Figures

INSIDE = "BENTO_OUTBOX_BENCH_INSIDE"
"""Set for the process that measures."""

NAMES = sorted(
    module.name
    for module in pkgutil.iter_modules(bench.__path__)
    if not module.ispkg and module.name not in ("__main__", "figures")
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--smoke", is_flag=True, help="Small numbers: shows that it works, not how fast it is.")
def main(names: tuple[str, ...], smoke: bool) -> None:
    """Runs the named benchmarks, or all."""
    for name in names or NAMES:
        module = benchmark(name)
        if os.environ.get(INSIDE):
            measure(module, smoke=smoke)
        else:
            start_in_sandbox(name, module, smoke=smoke)


def benchmark(name: str) -> ModuleType:
    """The module of a benchmark."""
    return importlib.import_module(f"bench.{name}")


def measure(module: ModuleType, *, smoke: bool) -> None:
    """Prints what it is, its figures for people, and its figures for programs."""
    title = (module.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    click.echo(f"\n{module.__name__.removeprefix('bench.')}: {title}\n")
    figures: Figures = module.run(smoke=smoke)
    for line in figures.lines():
        click.echo(f"  {line}")
    click.echo(json.dumps(figures.values()))


def start_in_sandbox(name: str, module: ModuleType, *, smoke: bool) -> None:
    """Runs `measure` in a process of its own, inside."""
    if prepare := getattr(module, "prepare", None):
        prepare()
    inside = [sys.executable, "-m", "bench", name, *(["--smoke"] if smoke else [])]
    sandbox = [sys.executable, "-m", "sandbox", "exec", "--parts", ",".join(module.PARTS), "--"]
    done = subprocess.run([*sandbox, *inside], env={**os.environ, INSIDE: "1"}, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
