"""`python -m examples.orders`: create the tables, place orders."""

from __future__ import annotations

import asyncio
import uuid

import click
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from bento_outbox import MisuseError
from bento_outbox.database_url import parse_database_url
from examples.orders.service import Shop
from examples.orders.storage import create_tables

WORKERS = 8


@click.group()
@click.option("--database-url", envvar="DATABASE_URL", required=True, show_envvar=True)
@click.pass_context
def main(context: click.Context, database_url: str) -> None:
    """A small shop whose orders tell what happens to them."""
    try:
        context.obj = parse_database_url(database_url)
    except MisuseError as error:
        raise click.ClickException(str(error)) from error


@main.command("create-tables")
@click.pass_obj
def create_tables_command(url: str) -> None:
    """The shop's table and the outbox."""

    async def run() -> None:
        engine = create_async_engine(url)
        await create_tables(engine)
        await engine.dispose()

    asyncio.run(run())


@main.command()
@click.option("--tenant", required=True, help="Whose orders these are.")
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True, help="How many orders.")
@click.pass_obj
def place(url: str, tenant: str, count: int) -> None:
    """Place and pay orders: two transactions and two events each."""
    asyncio.run(_place(url, tenant, count))
    click.echo(f"{tenant}: {count} orders placed and paid")


async def _place(url: str, tenant: str, count: int) -> None:
    engine = create_async_engine(url, pool_size=WORKERS)
    shop = Shop(async_sessionmaker(engine, expire_on_commit=False), tenant)
    numbers = iter(range(count))

    async def customer(name: str) -> None:
        for number in numbers:
            order_id = str(uuid.uuid4())
            await shop.place_order(order_id=order_id, customer=name, total_cents=100 + number)
            await shop.pay_order(order_id)

    async with asyncio.TaskGroup() as customers:
        for worker in range(WORKERS):
            customers.create_task(customer(f"customer-{worker}"))
    await engine.dispose()


if __name__ == "__main__":
    main()
