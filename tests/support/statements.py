"""What an engine does while a test looks on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


@contextlib.contextmanager
def statements_of(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that the engine runs in the block."""
    statements: list[str] = []

    def notice(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine.sync_engine, "before_cursor_execute", notice)
    try:
        yield statements
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", notice)
