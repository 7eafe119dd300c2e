"""Orders and what happens to them. No database, no broker, no session in sight."""

from __future__ import annotations

from dataclasses import dataclass

from bento_outbox import event_type, register_event_from_aggregate


@event_type("orders.OrderPlaced")
@dataclass(frozen=True, kw_only=True)
class OrderPlaced:
    """A customer has ordered for `total_cents`."""

    aggregate_id: str
    customer: str
    total_cents: int


@event_type("orders.OrderPaid")
@dataclass(frozen=True, kw_only=True)
class OrderPaid:
    """The order's total was paid."""

    aggregate_id: str
    total_cents: int


class Order:
    """An order: placed once, paid once."""

    id: str
    customer: str
    total_cents: int
    paid: bool

    def __init__(self, *, order_id: str, customer: str, total_cents: int) -> None:
        if total_cents <= 0:
            raise ValueError(f"order {order_id} has a total of {total_cents} cents: it must be positive")
        self.id = order_id
        self.customer = customer
        self.total_cents = total_cents
        self.paid = False

    @classmethod
    def place(cls, *, order_id: str, customer: str, total_cents: int) -> Order:
        """A new order."""
        order = cls(order_id=order_id, customer=customer, total_cents=total_cents)
        register_event_from_aggregate(OrderPlaced(aggregate_id=order_id, customer=customer, total_cents=total_cents))
        return order

    def pay(self) -> None:
        """Marks the order as paid. Raises ValueError if it already is."""
        if self.paid:
            raise ValueError(f"order {self.id} is already paid")
        self.paid = True
        register_event_from_aggregate(OrderPaid(aggregate_id=self.id, total_cents=self.total_cents))
