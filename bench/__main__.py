"""`python -m bench [--smoke] NAME…`: runs benchmarks; each ends with its figures as one JSON object."""

from __future__ import annotations

import importlib
import json
import pkgutil

import click

import bench
from bench.figures import Figures

NAMES = sorted(
    module.name for module in pkgutil.iter_modules(bench.__path__) if module.name not in ("__main__", "figures")
)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--smoke", is_flag=True, help="Small numbers: shows that it works, not how fast it is.")
def main(names: tuple[str, ...], smoke: bool) -> None:
    """Runs the named benchmarks, or all."""
    for name in names or NAMES:
        click.echo(f"\n{name}: {bench_doc(name)}\n")
        figures: Figures = importlib.import_module(f"bench.{name}").run(smoke=smoke)
        for line in figures.lines():
            click.echo(f"  {line}")
        click.echo(json.dumps(figures.values()))


def bench_doc(name: str) -> str:
    """The first sentence of a benchmark's module."""
    return (importlib.import_module(f"bench.{name}").__doc__ or "").split("\n\n")[0].replace("\n", " ")


if __name__ == "__main__":
    main()
