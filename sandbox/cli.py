"""The command line: `python -m sandbox up|down|status|shell|exec`."""

import os
import signal
import sys
from types import FrameType

import click

from sandbox import bringing_up, namespace, paths, progress, rules
from sandbox.caching import locked
from sandbox.errors import SandboxError
from sandbox.parts import PARTS

ALL = ", ".join(PARTS)


class Group(click.Group):
    """Shows our own errors as the one sentence they are."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SandboxError as error:
            progress.say(f"sandbox: {error}")
            ctx.exit(1)
        except KeyboardInterrupt:
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
    plan = rules.plan(parts, os.environ)
    if plan.start:
        bringing_up.bring_up(plan.start)
    for name in plan.existing:
        click.echo(f"{PARTS[name].title}: yours, from {PARTS[name].variable}")
    for name in plan.start:
        click.echo(f"{PARTS[name].title}: ready")
    click.echo("Look around with `python -m sandbox shell`; remove everything with `python -m sandbox down`.")


@main.command(help="Stop and remove everything but the cache of builds.")
def down() -> None:
    if namespace.inside():
        raise SandboxError("This is a shell in the sandbox; leave it and run `down` outside.")
    with locked(), progress.step("removing the sandbox"):
        found = namespace.destroy()
    click.echo("The sandbox is gone." if found else "There is no sandbox.")


@main.command(help="Say what runs. The exit code is 0 if the sandbox is up.")
def status() -> None:
    state = namespace.current()
    if state is None:
        click.echo("down")
        sys.exit(3)
    click.echo(f"up, logs in {paths.logs()}")


@main.command(help="Open a shell that sees everything; starts what is missing.")
@click.option("--parts", default="", help=f"Only these, separated by commas ({ALL}).")
def shell(parts: str) -> None:
    names = _bring_up(parts)
    bringing_up.become([os.environ.get("SHELL") or "/bin/sh"], names)


@main.command("exec", help="Run a command in the sandbox; starts what is missing.")
@click.option("--parts", default="", help=f"Only these, separated by commas ({ALL}).")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(parts: str, command: tuple[str, ...]) -> None:
    bringing_up.become(command, _bring_up(parts))


def _bring_up(parts: str) -> tuple[str, ...]:
    plan = rules.plan([name.strip() for name in parts.split(",") if name.strip()], os.environ)
    if plan.start:
        bringing_up.bring_up(plan.start)
    return plan.start
