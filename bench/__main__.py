"""`python -m bench [--smoke | --write] NAME…`: runs benchmarks; each ends with its figures as one JSON object.

On the host each is started again in the sandbox, with the parts that it names; what it wants to have built before
(`prepare`) is built where there is a network.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from types import ModuleType

import click

import bench
from bench.figures import Figures
from bench.harness import report
from bench.harness.errors import BenchError

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
@click.option("--write", is_flag=True, help="Put the results into docs/benchmarks.md.")
def main(names: tuple[str, ...], smoke: bool, write: bool) -> None:
    """Runs the named benchmarks, or all."""
    if smoke and write:
        raise click.UsageError("A smoke run has no results to write.")
    # What it has started ends with it: a control plane that stays takes a core from whatever runs next.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for name in names or NAMES:
        module = benchmark(name)
        if os.environ.get(INSIDE):
            measure(name, module, smoke=smoke, write=write)
        else:
            start_in_sandbox(name, module, smoke=smoke, write=write)


def benchmark(name: str) -> ModuleType:
    """The module of a benchmark."""
    return importlib.import_module(f"bench.{name}")


def measure(name: str, module: ModuleType, *, smoke: bool, write: bool) -> None:
    """Prints what it is, its figures for people, and its figures for programs."""
    title = (module.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    click.echo(f"\n{name}: {title}\n")
    circumstances = report.circumstances()
    try:
        figures: Figures = module.run(smoke=smoke)
    except BenchError as error:
        raise click.ClickException(str(error)) from error
    for line in figures.lines():
        click.echo(f"  {line}")
    if write:
        report.write(name, title, figures, circumstances)
    click.echo(json.dumps(figures.values()))


def start_in_sandbox(name: str, module: ModuleType, *, smoke: bool, write: bool) -> None:
    """Runs `measure` in a process of its own, inside."""
    if prepare := getattr(module, "prepare", None):
        prepare()
    options = [option for option, given in (("--smoke", smoke), ("--write", write)) if given]
    inside = [sys.executable, "-m", "bench", name, *options]
    sandbox = [sys.executable, "-m", "sandbox", "exec", "--parts", ",".join(module.PARTS), "--"]
    done = subprocess.run([*sandbox, *inside], env={**os.environ, INSIDE: "1"}, check=False)
    if done.returncode != 0:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
