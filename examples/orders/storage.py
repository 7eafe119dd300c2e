"""Where orders are stored: one table, mapped imperatively so that the domain stays free of SQLAlchemy."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Integer, Table, Text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import registry

from bento_outbox.schema import apply_schema
from examples.orders.domain import Order

mapper_registry = registry()

orders = Table(
    "orders",
    mapper_registry.metadata,
    Column("id", Text, primary_key=True),
    Column("customer", Text, nullable=False),
    Column("total_cents", Integer, nullable=False),
    Column("paid", Boolean, nullable=False),
)
mapper_registry.map_imperatively(Order, orders)


async def create_tables(engine: AsyncEngine) -> None:
    """The shop's table and the outbox beside it. Safe to run again."""
    async with engine.begin() as connection:
        await connection.run_sync(mapper_registry.metadata.create_all)
    await apply_schema(engine)
