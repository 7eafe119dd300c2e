"""The command `outbox-operator`."""

from __future__ import annotations

import sys

import click
import structlog
import uvloop
from pydantic import ValidationError

from outbox_operator import logs
from outbox_operator.errors import ClusterError
from outbox_operator.settings import Settings


@click.group()
@click.version_option(package_name="bento-outbox")
def main() -> None:
    """Runs one projector per OutboxTenant, and keeps it as the OutboxTenant says."""


@main.command()
def run() -> None:
    """Run the operator until SIGTERM. `outbox-operator settings` lists what can be set."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = f"OUTBOX_OPERATOR_{'_'.join(map(str, problem['loc'][:1])).upper()}"
            click.echo(f"{name}: {problem['msg']} (it is {problem['input']!r})", err=True)
        sys.exit(2)
    logs.configure(level=settings.log_level, fmt=settings.log_format)
    logger = structlog.get_logger("outbox_operator")
    logger.info("starting", **settings.model_dump())
    # Takes a second: not before the settings are known to be right.
    from outbox_operator import main as operator

    try:
        uvloop.run(operator.run(settings))
    except (ClusterError, OSError) as error:
        logger.error("stopped", error=str(error))
        sys.exit(1)


@main.command()
def settings() -> None:
    """List the variables of the environment that configure the operator, with their defaults."""
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        value = ",".join(default) if isinstance(default, tuple) else default
        click.echo(f"OUTBOX_OPERATOR_{name.upper()}={value}")
        click.echo(f"    {' '.join((field.description or '').split())}")
