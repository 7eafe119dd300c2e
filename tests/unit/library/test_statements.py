"""The statements of the `.sql` files, with the configured table in them."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from sqlalchemy import MetaData, Table
from sqlalchemy.dialects import postgresql

from bento_outbox.sql_files import TableName, named_statements, numbered
from bento_outbox.statements import statement
from bento_outbox.table import make_outbox_table

ELSEWHERE = "tenant_roles.sql"
"""Made by `ddl.renamed`, shown by tests/integration/test_row_level_security.py."""

NAMES = [
    (package, file.name, name)
    for package in ("bento_outbox", "outbox_projector")
    for file in sorted(files(package).iterdir(), key=lambda file: file.name)
    if file.name.endswith(".sql") and file.name != ELSEWHERE
    for name in named_statements(package, file.name)
]


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

    assert (written in sql) is bool(re.search(r"\boutbox\b", sql))
    # What is left of the names in the file are aliases.
    assert not re.search(r"(?<!AS )\boutbox\w*\b(?!\.| AS \w+)", re.sub(r"--.*", "", sql))


def test_the_statements_are_all_of_them() -> None:
    assert {name for _, _, name in NAMES} >= {
        "write",
        "candidates",
        "count_pending",
        "requeue",
        "acquire",
        "take_off",
        "mark_sent",
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_do_not_depend_on_the_tables_name(name: tuple[str, str, str]) -> None:
    def parameters(table: Table) -> set[str]:
        return set(statement(*name, table).compile().params)

    assert parameters(_table("events :late")) == parameters(_table("outbox"))


def test_a_statement_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError):
        statement("bento_outbox", "write.sql", "nothing", _table("outbox"))


@pytest.mark.parametrize("name", NAMES)
def test_numbered_parameters_are_those_of_the_file(name: tuple[str, str, str]) -> None:
    found = numbered(*name, TableName())

    assert set(found.parameters) == set(statement(*name, _table("outbox")).compile().params)
    assert {int(number) for number in re.findall(r"\$(\d+)", found.sql)} == set(range(1, len(found.parameters) + 1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("table", "written"),
    [
        (TableName(), '"outbox" AS outbox'),
        (TableName("Order Events", "my shop"), '"my shop"."Order Events" AS outbox'),
        (TableName('a"b'), '"a""b" AS outbox'),
        (TableName("events :late $1"), '"events :late $1" AS outbox'),
    ],
)
def test_a_numbered_statement_names_the_configured_table(
    name: tuple[str, str, str], table: TableName, written: str
) -> None:
    sql = numbered(*name, table).sql

    assert (written in sql) is bool(re.search(r"\boutbox\b", sql))
    assert numbered(*name, table).parameters == numbered(*name, TableName()).parameters
