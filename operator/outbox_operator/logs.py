"""Logging: one line per event, from our own code and from the libraries alike, as JSON or for people."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(*, level: str, fmt: str) -> None:
    """Sets logging up for the process. Libraries are heard from warnings on, at `debug` with all they have to say."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    last: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if fmt == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.getLogger("asyncio").addFilter(_no_open_generators)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("outbox_operator").setLevel(level.upper())


def _no_open_generators(record: logging.LogRecord) -> bool:
    """kopf that is stopped amid an event leaves its stream to be closed by the loop, which calls that an error."""
    return "closing of asynchronous generator" not in record.getMessage()
