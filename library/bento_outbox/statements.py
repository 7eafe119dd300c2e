"""SQL lives in `.sql` files, a statement a block; this puts the configured table in the place of `outbox`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

from sqlalchemy import Table, TextClause, text

from bento_outbox.table import quoted


@cache
def named_statements(package: str, file: str) -> dict[str, str]:
    """The statements of a file by the names above them, as they are there."""
    source = files(package).joinpath(file).read_text()
    parts = re.split(r"^-- name: (\w+)$", source, flags=re.MULTILINE)[1:]
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}


def statement(package: str, file: str, name: str, table: Table) -> TextClause:
    """The statement below `-- name: name`; `outbox` stays its alias, whatever the table is called."""
    aliased = f"{quoted(table)} AS outbox"
    return text(
        re.sub(r"\b(FROM|UPDATE|INTO) outbox\b", lambda m: f"{m[1]} {aliased}", named_statements(package, file)[name])
    )
