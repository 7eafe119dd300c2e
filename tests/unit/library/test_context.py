"""Which unit of work an aggregate's events go to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from bento_outbox import MisuseError, NoActiveUnitOfWork, TenantMissing, UnitOfWork, event_type
from bento_outbox import register_event_from_aggregate as register


@event_type("tests.context.Noticed")
@dataclass
class Noticed:
    aggregate_id: str


class _Work(UnitOfWork):
    """A unit of work whose session never gets to a database: none of these tests writes."""

    def __init__(self, tenant_id: str | None = "acme") -> None:
        super().__init__(async_sessionmaker(class_=AsyncSession), tenant_id=tenant_id)

    @property
    def noticed(self) -> list[str]:
        return [event.aggregate_id for event in self.collect_events()]


def test_outside_a_unit_of_work_the_error_names_the_cure() -> None:
    with pytest.raises(NoActiveUnitOfWork, match=r"Noticed was registered outside .* `async with UnitOfWork\("):
        register(Noticed("order-1"))


async def test_events_are_collected_in_the_order_in_which_they_happened() -> None:
    async with _Work() as work:
        register(Noticed("first"))
        register(Noticed("second"))

        assert work.noticed == ["first", "second"]


async def test_after_the_block_no_unit_of_work_is_current() -> None:
    async with _Work():
        pass

    with pytest.raises(NoActiveUnitOfWork):
        register(Noticed("order-1"))


async def test_after_an_error_in_the_block_no_unit_of_work_is_current() -> None:
    with pytest.raises(ZeroDivisionError):
        async with _Work():
            _ = 1 / 0

    with pytest.raises(NoActiveUnitOfWork):
        register(Noticed("order-1"))


async def test_a_unit_of_work_within_another_gets_its_own_events_and_gives_the_place_back() -> None:
    async with _Work() as outer:
        register(Noticed("outer, before"))
        async with _Work() as inner:
            register(Noticed("inner"))
            assert inner.noticed == ["inner"]
        register(Noticed("outer, after"))

        assert outer.noticed == ["outer, before", "outer, after"]


async def test_each_task_has_its_own_unit_of_work() -> None:
    both_began = asyncio.Barrier(2)

    async def noticed_by(name: str) -> list[str]:
        async with _Work() as work:
            await both_began.wait()
            register(Noticed(name))
            await both_began.wait()
            return work.noticed

    assert await asyncio.gather(noticed_by("one"), noticed_by("two")) == [["one"], ["two"]]


async def test_a_task_started_inside_registers_with_the_unit_of_work_it_was_started_in() -> None:
    async def notice() -> None:
        register(Noticed("from a child task"))

    async with _Work() as work:
        await asyncio.create_task(notice())
        await asyncio.to_thread(register, Noticed("from a thread"))

        assert work.noticed == ["from a child task", "from a thread"]


async def test_an_event_without_a_tenant_fails_where_it_is_registered() -> None:
    async with _Work(tenant_id=None):
        with pytest.raises(TenantMissing, match="the event has no tenant: pass tenant_id"):
            register(Noticed("order-1"))


async def test_a_unit_of_work_that_has_not_begun_has_no_session() -> None:
    with pytest.raises(MisuseError, match=r"has not begun: use it as `async with"):
        _ = _Work().session


async def test_a_unit_of_work_begins_once() -> None:
    async with _Work() as work:
        with pytest.raises(MisuseError, match="already begun: make a new one"):
            await work.begin()


async def test_a_task_that_outlives_its_unit_of_work_hears_of_it() -> None:
    ended = asyncio.Event()

    async def notice_later() -> None:
        await ended.wait()
        register(Noticed("too late"))

    async with _Work():
        task = asyncio.create_task(notice_later())
    ended.set()

    with pytest.raises(NoActiveUnitOfWork, match=r"Noticed was registered with a unit of work that is .* no longer"):
        await task


async def test_a_sync_session_is_not_taken_for_an_async_one() -> None:
    """Its commit would succeed, and then raise."""
    work = UnitOfWork(sessionmaker(), tenant_id="acme")  # type: ignore[arg-type] # the mistake

    with pytest.raises(MisuseError, match=r"makes a Session, .* needs an AsyncSession: give it an async_sessionmaker"):
        await work.begin()
    with pytest.raises(NoActiveUnitOfWork):
        register(Noticed("order-1"))
