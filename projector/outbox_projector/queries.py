"""Loads `queries.sql` and puts the configured table in the place of `outbox`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from sqlalchemy import Table, TextClause, text

from bento_outbox.table import quoted


@cache
def _statements() -> dict[str, str]:
    source = files(__package__).joinpath("queries.sql").read_text()
    parts = re.split(r"^-- name: (\w+)$", source, flags=re.MULTILINE)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def query(name: str, table: Table) -> TextClause:
    """The statement `name`; the alias `outbox` stays, whatever the table is called."""
    aliased = f"{quoted(table)} AS outbox"
    return text(re.sub(r"\b(FROM|UPDATE) outbox\b", lambda found: f"{found[1]} {aliased}", _statements()[name]))
