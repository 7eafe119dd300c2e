"""The use cases of the shop: each is one unit of work, so each stores its changes and its events together."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox import UnitOfWork
from examples.orders.domain import Order


class Shop:
    """One tenant's shop."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], tenant_id: str) -> None:
        self._sessions = sessions
        self._tenant_id = tenant_id

    async def place_order(self, *, order_id: str, customer: str, total_cents: int) -> None:
        """Stores a new order and the event that tells of it."""
        async with UnitOfWork(self._sessions, tenant_id=self._tenant_id) as work:
            order = Order.place(order_id=order_id, customer=customer, total_cents=total_cents)
            work.repository(Order).add(order)
            await work.commit()

    async def pay_order(self, order_id: str) -> None:
        """Marks an order as paid, and tells. Raises LookupError if there is none."""
        async with UnitOfWork(self._sessions, tenant_id=self._tenant_id) as work:
            order = await work.repository(Order).get(order_id)
            if order is None:
                raise LookupError(f"there is no order {order_id}")
            order.pay()
            await work.commit()
