"""The command line: `python -m sandbox up|down|status|shell|exec`."""

import os
import signal
import subprocess
import sys
from types import FrameType

import click

from sandbox import bringing_up, namespace, paths, processes, progress
from sandbox.caching import locked
from sandbox.errors import SandboxError
from sandbox.parts import PARTS
from sandbox.rules import Plan

ALL = ", ".join(PARTS)
DOWN = 3
"""The exit code of `status` when there is no sandbox."""


class Group(click.Group):
    """Shows our own errors as the one sentence they are."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SandboxError as error:
            progress.say(f"sandbox: {error}")
            ctx.exit(1)
        except KeyboardInterrupt:
            processes.end_all()
            progress.say("sandbox: interrupted; the same command goes on from here.")
            ctx.exit(130)


@click.group(cls=Group, help="The real Postgres, Pulsar and Kubernetes on this machine, in a private network.")
def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@main.command(help=f"Build what is missing and start the parts ({ALL}; all by default).")
@click.argument("parts", nargs=-1)
def up(parts: tuple[str, ...]) -> None:
    plan = _bring_up(parts)
    for name in plan.existing:
        click.echo(f"{PARTS[name].title}: yours, by {PARTS[name].variable}")
    for name in plan.start:
        click.echo(f"{PARTS[name].title}: ready")
    if plan.start:
        click.echo("Look around with `python -m sandbox shell`; remove everything with `python -m sandbox down`.")


@main.command(help="Stop and remove everything but the cache of builds.")
def down() -> None:
    if namespace.inside():
        raise SandboxError("This is a shell in the sandbox; leave it and run `down` outside.")
    if not paths.run().exists():
        click.echo("There is no sandbox.")
        return
    with locked(), progress.step("removing the sandbox"):
        namespace.destroy()
    click.echo("The sandbox is gone.")


@main.command(help=f"Say what runs; exits with {DOWN} when nothing does.")
def status() -> None:
    state = namespace.current()
    if state is None and not namespace.inside():
        click.echo("The sandbox is down.")
        sys.exit(DOWN)
    command = [sys.executable, "-m", "sandbox.looking"]
    if state is not None and not namespace.inside():
        command = namespace.entering(state, command)
    sys.exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": str(paths.PROJECT)}, check=False).returncode)


@main.command(help="Open a shell that sees everything; starts what is missing.")
@click.option("--parts", default="", help=f"Only these, separated by commas ({ALL}).")
def shell(parts: str) -> None:
    plan = _bring_up(_names(parts))
    progress.say("This shell is in the sandbox: try kubectl, helm, psql $DATABASE_URL. `exit` leaves it as it is.")
    bringing_up.become([os.environ.get("SHELL") or "/bin/sh"], plan)


@main.command("exec", help="Run a command in the sandbox; starts what is missing.")
@click.option("--parts", default="", help=f"Only these, separated by commas ({ALL}).")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(parts: str, command: tuple[str, ...]) -> None:
    bringing_up.become(command, _bring_up(_names(parts)))


def _names(parts: str) -> list[str]:
    return [name.strip() for name in parts.split(",") if name.strip()]


def _bring_up(parts: tuple[str, ...] | list[str]) -> Plan:
    plan = bringing_up.plan(parts)
    bringing_up.bring_up(plan)
    return plan
