"""`bento-outbox tenants`: which role of the database acts for which tenant."""

from __future__ import annotations

import click

from bento_outbox import tenant_roles
from bento_outbox.cli_options import database_url, on_database, schema_name, table_name

ROLE = click.argument("role")


@click.group("tenants")
def tenants_group() -> None:
    """Row-level security: bind roles of the database to tenants."""


@tenants_group.command()
@ROLE
@click.option("--tenant", help="Id of the one tenant whose rows the role reads and writes.")
@click.option("--all-tenants", is_flag=True, help="The rows of all tenants, for an application that serves many.")
@click.option(
    "--as",
    "use",
    type=click.Choice(["writer", "projector", "both", "operator"]),
    default="writer",
    show_default=True,
    help="What it is granted: to insert events, to deliver them, both (for direct publish), or to requeue and discard.",
)
@database_url
@table_name
@schema_name
def bind(
    role: str,
    tenant: str | None,
    all_tenants: bool,
    use: tenant_roles.Use,
    database_url: str,
    table: str,
    schema: str | None,
) -> None:
    """Bind ROLE to a tenant, and grant what it needs. The last binding of a role holds."""
    if (tenant is None) == (not all_tenants):
        raise click.UsageError("say either --tenant ID or --all-tenants")
    on_database(
        database_url,
        lambda engine: tenant_roles.bind_role(engine, role, tenant_id=tenant, use=use, table=table, schema=schema),
    )
    click.echo(f"role {role} is bound to {'all tenants' if tenant is None else f'tenant {tenant}'} as {use}")


@tenants_group.command()
@ROLE
@database_url
@table_name
@schema_name
def unbind(role: str, database_url: str, table: str, schema: str | None) -> None:
    """Take everything from ROLE that has to do with the outbox."""
    on_database(database_url, lambda engine: tenant_roles.unbind_role(engine, role, table=table, schema=schema))
    click.echo(f"role {role} is unbound")


@tenants_group.command("list")
@database_url
@table_name
@schema_name
def list_roles(database_url: str, table: str, schema: str | None) -> None:
    """Show which role is bound to which tenant, a line each."""
    bindings = on_database(database_url, lambda engine: tenant_roles.bound_roles(engine, table=table, schema=schema))
    for binding in bindings:
        tenant = "all tenants" if binding.tenant_id is None else f"tenant {binding.tenant_id}"
        click.echo(f"{binding.role}\t{tenant}\t{binding.use or 'no privileges'}")
