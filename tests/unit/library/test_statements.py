"""The statements of the `.sql` files, with the configured table in them."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import MetaData, Table
from sqlalchemy.dialects import postgresql

from bento_outbox.statements import statement
from bento_outbox.table import make_outbox_table

PROJECTOR = [("outbox_projector", "queries.sql", name) for name in ("claim", "mark_sent", "mark_refused", "measure")]
LIBRARY = [("bento_outbox", "write.sql", name) for name in ("write", "mark_sent", "release")]
NAMES = PROJECTOR + LIBRARY


def _table(name: str, schema: str | None = None) -> Table:
    return make_outbox_table(MetaData(), name=name, schema=schema)


def _sql(name: tuple[str, str, str], table: Table) -> str:
    return str(statement(*name, table).compile(dialect=postgresql.dialect(paramstyle="named")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("table", "written"),
    [
        (_table("outbox"), "outbox AS outbox"),
        (_table("events", "shop"), "shop.events AS outbox"),
        (_table("Order Events", "my shop"), '"my shop"."Order Events" AS outbox'),
        (_table('a"b'), '"a""b" AS outbox'),
        (_table("back\\slash \\1"), '"back\\slash \\1" AS outbox'),
        (_table("events :late"), '"events :late" AS outbox'),
        (_table("100%"), '"100%" AS outbox'),
    ],
)
def test_every_statement_names_the_configured_table(name: tuple[str, str, str], table: Table, written: str) -> None:
    sql = _sql(name, table)

    assert written in sql
    assert not re.search(r"\b(FROM|UPDATE|INTO) outbox\b(?! AS outbox)", sql)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_do_not_depend_on_the_tables_name(name: tuple[str, str, str]) -> None:
    def parameters(table: Table) -> set[str]:
        return set(statement(*name, table).compile().params)

    assert parameters(_table("events :late")) == parameters(_table("outbox"))


def test_a_statement_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        statement("bento_outbox", "write.sql", "nothing", _table("outbox"))
