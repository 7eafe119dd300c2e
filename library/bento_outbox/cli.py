"""`bento-outbox`: the outbox table from the command line. `tenants` and `errors` are in `…_cli.py` of their names."""

from __future__ import annotations

import click

from bento_outbox import __version__
from bento_outbox import schema as schema_module
from bento_outbox.cli_options import database_url, on_database, one_sentence, schema_name, table_name
from bento_outbox.errors_cli import errors_group
from bento_outbox.tenants_cli import tenants_group

row_level_security = click.option(
    "--row-level-security", is_flag=True, help="With row-level security: each role sees its own tenant's rows."
)


@click.group()
@click.version_option(__version__, prog_name="bento-outbox")
def main() -> None:
    """The outbox table: create it, check it, look after it."""


main.add_command(tenants_group)
main.add_command(errors_group)


@main.group("schema")
def schema_group() -> None:
    """Create or upgrade the outbox table, check it, or print its SQL."""


@schema_group.command()
@database_url
@table_name
@schema_name
@row_level_security
def apply(database_url: str, table: str, schema: str | None, row_level_security: bool) -> None:
    """Create the outbox table, or upgrade it. Safe to run again."""
    on_database(
        database_url,
        lambda engine: schema_module.apply_schema(
            engine, table=table, schema=schema, row_level_security=row_level_security
        ),
    )
    click.echo(f"table {table} is up to date")


@schema_group.command()
@database_url
@table_name
@schema_name
@row_level_security
def check(database_url: str, table: str, schema: str | None, row_level_security: bool) -> None:
    """Say whether the table is what this version needs; exit code 1 if it is not."""
    on_database(
        database_url,
        lambda engine: schema_module.validate_schema(
            engine, table=table, schema=schema, row_level_security=row_level_security
        ),
    )
    click.echo(f"table {table} is what version {__version__} needs")


@schema_group.command()
@table_name
@schema_name
@row_level_security
def sql(table: str, schema: str | None, row_level_security: bool) -> None:
    """Print the SQL that creates the table, for those who migrate by hand."""
    with one_sentence():
        click.echo(schema_module.schema_sql(table=table, schema=schema, row_level_security=row_level_security))
