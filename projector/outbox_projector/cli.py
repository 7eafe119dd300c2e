"""`outbox-projector`: the process that a tenant's pod runs."""

from __future__ import annotations

import gc
import logging
import sys

import click
import structlog
import uvloop

from bento_outbox import MisuseError, __version__
from outbox_projector.app import run as run_projector
from outbox_projector.settings import load_settings

SWITCH_SECONDS = 0.0005
"""How soon the event loop gets the interpreter back from the thread that builds messages. With the default, 5 ms, the
database waits for us as long as it works: an eighth of the rate."""


@click.group()
@click.version_option(__version__, prog_name="outbox-projector")
def main() -> None:
    """Carries one tenant's outbox rows from Postgres to Pulsar."""


@main.command()
def run() -> None:
    """Run until SIGTERM. Configured by environment variables OUTBOX_…, listed in docs/projector.md."""
    try:
        settings = load_settings()
        configure_logging(settings.log_level)
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.freeze()  # modules and classes stay: to look through them for garbage again and again costs a tenth
        uvloop.run(run_projector(settings))
    except MisuseError as error:
        raise click.ClickException(str(error)) from error


def configure_logging(level: str) -> None:
    """One JSON object a line on standard output."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        cache_logger_on_first_use=True,
    )
