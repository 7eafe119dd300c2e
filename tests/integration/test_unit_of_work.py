"""Business changes and their events, in one transaction or not at all; on the real Postgres."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import ForeignKey, MetaData, Text, event, insert, select, text, update
from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, reconstructor, relationship

from bento_outbox import (
    EventNotEncodable,
    MisuseError,
    NoActiveUnitOfWork,
    Outbox,
    OutboxRecord,
    TenantMissing,
    UnitOfWork,
    event_type,
)
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.schema import apply_schema
from bento_outbox.table import make_outbox_table
from tests.conftest import unique
from tests.support.notes import Noted, Unstorable
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]


class Base(DeclarativeBase):
    pass


@event_type("tests.shop.Placed", version=2)
@dataclass(frozen=True)
class Placed:
    aggregate_id: str
    total: int = 0
    event_id: UUID = field(default_factory=uuid4)


class Order(Base):
    """An aggregate that registers its events."""

    __tablename__ = "orders"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    total: Mapped[int] = mapped_column(default=0)

    @classmethod
    def place(cls, total: int) -> Order:
        order = cls(id=unique("order"), total=total)
        register(Placed(order.id, total))
        return order

    def change(self, total: int) -> None:
        self.total = total
        register(Placed(self.id, total))


class Basket(Base):
    """An aggregate that holds its events, and knows nothing of units of work."""

    __tablename__ = "baskets"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    total: Mapped[int] = mapped_column(default=0)

    def __init__(self, total: int) -> None:
        super().__init__(id=unique("basket"), total=total)
        self._began()
        self.fill(total)

    @reconstructor
    def _began(self) -> None:
        self._events: list[Placed] = []

    def fill(self, total: int) -> None:
        self.total = total
        self._events.append(Placed(self.id, total))

    def pull_events(self) -> Sequence[Placed]:
        events, self._events = self._events, []
        return events


@pytest.fixture(scope="module", autouse=True)
async def _business_tables(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


@pytest.fixture
def new_work(sessions: Sessions, tenant: str) -> Any:
    """Makes units of work. (A fixture cannot enter one for the test: its ContextVar would not reach it.)"""
    return lambda: UnitOfWork(sessions, tenant_id=tenant)


async def _totals(rows: Rows) -> list[int]:
    return [row.payload["total"] for row in await rows.all()]


async def _stored(sessions: Sessions, kind: type[Base], key: str) -> Any:
    async with sessions() as session:
        return await session.get(kind, key)


async def test_the_business_row_and_its_event_are_there_together(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    async with new_work() as work:
        order = Order.place(12)
        work.repository(Order).add(order)
        assert await rows.all() == []
        await work.commit()

    [row] = await rows.all()
    assert (await _stored(sessions, Order, order.id)).total == 12
    assert (row.tenant_id, row.aggregate_id, row.type) == (rows.tenant, order.id, "tests.shop.Placed")
    assert (row.schema_id, row.schema_ver, row.status, row.retry_cnt) == ("tests.shop.Placed", 2, "NEW", 0)
    assert row.payload == {"aggregate_id": order.id, "total": 12, "event_id": str(row.id)}


async def test_leaving_without_commit_leaves_neither(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    async with new_work() as work:
        order = Order.place(12)
        work.repository(Order).add(order)
        await work.session.flush()

    assert await _stored(sessions, Order, order.id) is None
    assert await rows.all() == []


async def test_an_error_in_the_block_leaves_neither_and_is_passed_on(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    order_id = unique("order")

    async def fail() -> None:
        async with new_work() as work:
            work.repository(Order).add(Order(id=order_id))
            register(Placed(order_id))
            await work.session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert await _stored(sessions, Order, order_id) is None
    assert await rows.all() == []


async def test_an_error_of_the_database_at_commit_leaves_neither(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    async with new_work() as work:
        existing = Order.place(1)
        work.repository(Order).add(existing)
        await work.commit()

    async with new_work() as work:
        order = Order.place(2)
        work.repository(Order).add(order)
        work.session.add(Order(id=existing.id))
        with pytest.raises(DBAPIError):
            await work.commit()

    assert await _stored(sessions, Order, order.id) is None
    assert await _totals(rows) == [1]


async def test_an_event_that_the_table_does_not_take_takes_the_business_row_along(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    async with new_work() as work:
        order = Order(id=unique("order"))
        work.repository(Order).add(order)
        register(Unstorable(1))
        with pytest.raises(DBAPIError):
            await work.commit()

    assert await _stored(sessions, Order, order.id) is None
    assert await rows.all() == []


async def test_rollback_forgets_and_the_unit_of_work_goes_on(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    async with new_work() as work:
        forgotten = Order.place(1)
        work.repository(Order).add(forgotten)
        await work.rollback()
        kept = Order.place(2)
        work.repository(Order).add(kept)
        await work.commit()

    assert await _stored(sessions, Order, forgotten.id) is None
    assert await _totals(rows) == [2]


async def test_a_session_that_other_code_commits_takes_the_events_along(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        work.repository(Order).add(Order.place(12))
        await work.session.commit()

    assert await _totals(rows) == [12]


async def test_work_by_core_statements_alone(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    order_id = unique("order")
    async with new_work() as work:
        await work.session.execute(insert(Order).values(id=order_id, total=12))
        register(Placed(order_id, 12))
        await work.commit()

    assert (await _stored(sessions, Order, order_id)).total == 12
    assert await _totals(rows) == [12]


async def test_an_event_without_any_other_change(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        register(Placed("order-1", 12))
        await work.commit()

    assert await _totals(rows) == [12]


async def test_an_event_registered_after_the_last_flush(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        order = Order(id=unique("order"))
        work.repository(Order).add(order)
        await work.session.flush()
        register(Placed(order.id, 12))
        await work.commit()

    assert await _totals(rows) == [12]


@pytest.mark.parametrize("hook", ["before_flush", "after_flush", "after_flush_postexec"])
async def test_an_event_registered_in_a_hook_of_the_flush(new_work: Any, rows: Rows, hook: str) -> None:
    once = Placed("order-1", 12)
    async with new_work() as work:

        def notice(session: Session, *_: object) -> None:
            register(once)

        event.listen(work.session.sync_session, hook, notice)
        work.repository(Order).add(Order(id=unique("order")))
        await work.commit()

    assert await _totals(rows) == [12]


async def test_events_are_stored_in_the_order_in_which_they_happened(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        order = Order.place(0)
        work.repository(Order).add(order)
        for total in range(1, 50):
            order.change(total)
        await work.commit()

    assert await _totals(rows) == list(range(50))


async def test_one_insert_for_any_number_of_events(new_work: Any, rows: Rows, engine: AsyncEngine) -> None:
    statements: list[str] = []

    def notice(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(engine.sync_engine, "before_cursor_execute", notice)
    try:
        async with new_work() as work:
            for number in range(20):
                register(Placed("order-1", number))
            await work.commit()
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", notice)

    assert len([statement for statement in statements if "INSERT INTO outbox" in statement]) == 1
    assert len(await rows.all()) == 20


async def test_the_same_event_twice_is_stored_once(new_work: Any, rows: Rows) -> None:
    placed = Placed("order-1", 12)
    async with new_work() as work:
        register(placed)
        register(placed)
        await work.commit()
    async with new_work() as work:
        register(placed)
        register(Placed("order-1", 13))
        await work.commit()

    assert await _totals(rows) == [12, 13]


async def test_an_event_that_was_sent_already_is_not_sent_again(new_work: Any, rows: Rows) -> None:
    placed = Placed("order-1", 12)
    async with new_work() as work:
        register(placed)
        await work.commit()
    await rows.change("status = 'SENT'")

    async with new_work() as work:
        register(placed)
        await work.commit()

    assert await rows.statuses() == ["SENT"]


async def test_an_aggregate_may_hold_its_events_itself(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    async with new_work() as work:
        basket = Basket(1)
        work.repository(Basket).add(basket)
        await work.commit()
    async with new_work() as work:
        known = await work.repository(Basket).get(basket.id)
        known.fill(2)
        known.fill(3)
        await work.commit()

    assert await _totals(rows) == [1, 2, 3]
    assert (await _stored(sessions, Basket, basket.id)).total == 3


async def test_collect_events_shows_what_the_commit_will_write(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        work.repository(Basket).add(Basket(1))
        register(Placed("order-1", 2))

        first = [json.loads(envelope.payload)["total"] for envelope in work.collect_events()]
        again = [json.loads(envelope.payload)["total"] for envelope in work.collect_events()]
        await work.commit()

    assert sorted(first) == sorted(again) == [1, 2]
    assert sorted(await _totals(rows)) == [1, 2]


async def test_a_repository_knows_what_is_not_there(new_work: Any) -> None:
    async with new_work() as work:
        assert await work.repository(Order).get("nothing") is None


async def test_get_locks_the_aggregate_so_that_its_events_are_in_the_order_of_commits(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    async with new_work() as work:
        order = Order.place(0)
        work.repository(Order).add(order)
        await work.commit()

    async def count_up() -> None:
        async with new_work() as work:
            locked = await work.repository(Order).get(order.id)
            locked.change(locked.total + 1)
            await work.commit()

    await asyncio.gather(*(count_up() for _ in range(5)))

    assert await _totals(rows) == [0, 1, 2, 3, 4, 5]
    assert (await _stored(sessions, Order, order.id)).total == 5


async def test_two_tenants_side_by_side(sessions: Sessions) -> None:
    tenants = [unique("tenant"), unique("tenant")]

    async def place(tenant: str, total: int) -> None:
        async with UnitOfWork(sessions, tenant_id=tenant) as work:
            work.repository(Order).add(Order.place(total))
            await work.commit()

    await asyncio.gather(place(tenants[0], 1), place(tenants[1], 2), place(tenants[0], 3))

    assert sorted(await _totals(Rows(sessions, tenants[0]))) == [1, 3]
    assert await _totals(Rows(sessions, tenants[1])) == [2]


async def test_nested_units_of_work_are_transactions_of_their_own(new_work: Any, rows: Rows) -> None:
    async with new_work() as outer:
        outer.repository(Order).add(Order.place(1))
        async with new_work() as inner:
            inner.repository(Order).add(Order.place(2))
            await inner.commit()
        assert await _totals(rows) == [2]
        await outer.rollback()

    assert await _totals(rows) == [2]


async def test_nothing_is_left_for_the_next_unit_of_work(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        work.repository(Order).add(Order.place(1))
        work.repository(Basket).add(Basket(2))
    async with new_work() as work:
        await work.commit()

    assert await rows.all() == []
    with pytest.raises(NoActiveUnitOfWork):
        Order.place(3)


async def test_the_session_class_is_left_as_it_was(new_work: Any, sessions: Sessions, rows: Rows) -> None:
    """A listener that stayed behind would write events of a unit of work that is over."""
    async with new_work():
        register(Placed("order-1"))
    async with sessions() as session:
        await session.execute(select(1))
        await session.commit()

    assert await rows.all() == []


async def test_after_a_rollback_aggregates_are_still_asked_for_their_events(new_work: Any, rows: Rows) -> None:
    """They stay in the session, and what they do next is stored."""
    async with new_work() as work:
        basket = Basket(1)
        work.repository(Basket).add(basket)
        await work.commit()
        basket.fill(2)
        await work.rollback()
        await work.session.refresh(basket)
        basket.fill(3)
        await work.commit()

    assert await _totals(rows) == [1, 3]


async def test_a_rollback_before_anything_else_forgets_what_aggregates_hold(new_work: Any, rows: Rows) -> None:
    """There is no transaction yet whose end would tell."""
    async with new_work() as work:
        basket = Basket(1)
        work.repository(Basket).add(basket)
        await work.commit()
        basket._events.append(Placed(basket.id, 2))
        await work.rollback()
        await work.commit()

    assert await _totals(rows) == [1]


async def test_a_unit_of_work_may_commit_several_times(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        order = Order.place(1)
        work.repository(Order).add(order)
        await work.commit()
        assert work.collect_events() == []
        order.change(2)
        await work.commit()
        order.change(3)

    assert await _totals(rows) == [1, 2]


async def test_a_released_savepoint_within_one_that_is_rolled_back_takes_no_event_along(
    new_work: Any, rows: Rows
) -> None:
    async with new_work() as work:
        register(Placed("order-1", 1))
        outer = await work.session.begin_nested()
        async with work.session.begin_nested():
            await work.session.execute(insert(Order).values(id=unique("order"), total=0))
        await outer.rollback()
        await work.commit()

    assert await _totals(rows) == [1]


async def test_a_commit_releases_the_savepoints_that_are_open(new_work: Any, rows: Rows) -> None:
    async with new_work() as work:
        await work.session.begin_nested()
        await work.session.begin_nested()
        register(Placed("order-1", 1))
        await work.commit()

    assert await _totals(rows) == [1]


async def test_misuse_fails_where_it_happens_and_the_unit_of_work_goes_on(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    async with new_work() as work:
        with pytest.raises(EventNotEncodable):
            register(Placed("", 1))
        register(Placed("order-1", 2))
        await work.commit()
    async with UnitOfWork(sessions):
        with pytest.raises(TenantMissing):
            register(Placed("order-1", 3))

    assert await _totals(rows) == [2]


async def test_a_connection_that_dies_before_the_commit_leaves_neither(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    async with new_work() as work:
        order = Order.place(12)
        work.repository(Order).add(order)
        await work.session.flush()
        backend = (await work.session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        async with sessions() as killer:
            await killer.execute(text("SELECT pg_terminate_backend(:backend)"), {"backend": backend})
        with pytest.raises(DBAPIError):
            await work.commit()

    assert await _stored(sessions, Order, order.id) is None
    assert await rows.all() == []


async def test_the_outbox_may_have_another_name(new_work: Any, sessions: Sessions, engine: AsyncEngine) -> None:
    table = make_outbox_table(MetaData(), name="Other Outbox")
    await apply_schema(engine, table="Other Outbox")
    tenant = unique("tenant")

    async with UnitOfWork(sessions, tenant_id=tenant, outbox=Outbox(table=table)) as work:
        work.repository(Order).add(Order.place(12))
        await work.commit()

    assert await Rows(sessions, tenant).all() == []
    assert await _totals(Rows(sessions, tenant, table)) == [12]


async def test_the_record_reads_the_table_through_the_orm(new_work: Any, sessions: Sessions, tenant: str) -> None:
    async with new_work() as work:
        register(Placed("order-1", 12))
        await work.commit()

    async with sessions() as session:
        [record] = (await session.scalars(select(OutboxRecord).where(OutboxRecord.tenant_id == tenant))).all()  # type: ignore[attr-defined]

    assert (record.aggregate_id, record.payload["total"]) == ("order-1", 12)  # type: ignore[attr-defined]


# what is loaded


class Line(Base):
    __tablename__ = "order_lines"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    order_id: Mapped[str] = mapped_column(ForeignKey("full_orders.id"))


class FullOrder(Base):
    """An aggregate whose parts are loaded along with it, by a join."""

    __tablename__ = "full_orders"

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    total: Mapped[int] = mapped_column(default=0)
    lines: Mapped[list[Line]] = relationship(lazy="joined")


async def test_what_was_loaded_before_is_read_anew_when_it_is_locked(sessions: Sessions, tenant: str) -> None:
    key = unique("order")
    async with sessions.begin() as session:
        session.add(Order(id=key, total=1))
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        loaded = (await work.session.scalars(select(Order).where(Order.id == key))).one()
        async with sessions.begin() as other:
            await other.execute(update(Order).where(Order.id == key).values(total=2))

        assert (await work.repository(Order).get_one(key)).total == loaded.total == 2

        loaded.total = 3  # not flushed yet
        assert (await work.repository(Order).get_one(key)).total == 3


async def test_an_aggregate_whose_parts_are_joined_can_be_locked(sessions: Sessions, tenant: str) -> None:
    key = unique("order")
    async with sessions.begin() as session:
        session.add(FullOrder(id=key))
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        assert (await work.repository(FullOrder).get_one(key)).lines == []
        with pytest.raises(NoResultFound, match="there is no FullOrder with the primary key 'none'"):
            await work.repository(FullOrder).get_one("none")


# an id of its own


async def test_an_id_is_that_of_one_event(sessions: Sessions, rows: Rows, tenant: str) -> None:
    """Another event under it would be lost in silence."""
    first = Placed("order-1", 1)
    async with UnitOfWork(sessions, tenant_id=tenant) as work:
        register(first)
        register(first)
        await work.commit()
        register(first)
        await work.commit()
        for other in (Placed("order-2", 1, first.event_id), Noted(1, "order-1", first.event_id)):
            register(other)
            with pytest.raises(MisuseError, match="give each event an id of its own"):
                await work.commit()
            await work.rollback()
        shared = uuid4()
        register(Placed("order-3", 1, shared))
        register(Placed("order-3", 2, shared))
        with pytest.raises(MisuseError, match="two events of one transaction"):
            await work.commit()
    assert len(await rows.all()) == 1


async def test_an_id_of_another_tenants_event_is_refused(sessions: Sessions, rows: Rows, tenant: str) -> None:
    placed = Placed("order-1")
    for number, owner in enumerate((tenant, unique("other"))):
        async with UnitOfWork(sessions, tenant_id=owner) as work:
            register(placed)
            if number:
                with pytest.raises(MisuseError, match="give each event an id of its own"):
                    await work.commit()
            else:
                await work.commit()


async def test_a_session_in_two_phases_is_refused(engine: AsyncEngine, tenant: str) -> None:
    """Nobody tells when what it has prepared is committed."""
    async with async_sessionmaker(engine, twophase=True)() as session:
        with pytest.raises(MisuseError, match="twophase=True"):
            Outbox(tenant=tenant).add(session, Placed("order-1"))
