"""A unit of work for each request, in FastAPI and in Litestar: the same application twice, asked over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio.from_thread
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException
from litestar import Litestar, post
from litestar.di import NamedDependency, Provide
from litestar.exceptions import HTTPException as LitestarHTTPException
from litestar.params import FromPath
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox import UnitOfWork, event_type, register_event_from_aggregate
from bento_outbox.integrations import fastapi, litestar
from tests.conftest import unique
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]
TENANT = "x-tenant"


@event_type("tests.web.Placed")
@dataclass(frozen=True)
class Placed:
    aggregate_id: str


class Meeting:
    """Where requests wait for each other, so that they are under way at the same time."""

    def __init__(self) -> None:
        self._barrier = asyncio.Barrier(2)

    async def arrive(self) -> None:
        await self._barrier.wait()


async def _two_halves(order: str, meeting: Meeting | None = None) -> None:
    """Registers one event, lets others run, registers another."""
    register_event_from_aggregate(Placed(f"{order}, first"))
    if meeting is not None:
        await meeting.arrive()
    register_event_from_aggregate(Placed(f"{order}, second"))


def _asking(app: Any) -> httpx.AsyncClient:
    """A client of an ASGI application, in this event loop, so that requests can be under way at the same time."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop.local")


def _with_fastapi(sessions: Sessions, meeting: Meeting) -> Any:
    unit_of_work = fastapi.unit_of_work_dependency(sessions, tenant=lambda request: request.headers[TENANT])
    app = FastAPI()

    async def other() -> str:
        return "another dependency"

    @app.post("/orders/{order}")
    async def place(order: str, work: UnitOfWork = Depends(unit_of_work), other: str = Depends(other)) -> None:  # noqa: B008
        await _two_halves(order)
        await work.commit()

    @app.post("/forgotten/{order}", dependencies=[Depends(unit_of_work)])
    async def forget(order: str) -> None:
        await _two_halves(order)

    @app.post("/refused/{order}")
    async def refuse(order: str, work: UnitOfWork = Depends(unit_of_work)) -> None:  # noqa: B008
        await _two_halves(order)
        await work.session.execute(text("SELECT 1"))
        raise HTTPException(409, "there is such an order")

    @app.post("/meeting/{order}")
    async def meet(order: str, work: UnitOfWork = Depends(unit_of_work)) -> None:  # noqa: B008
        await _two_halves(order, meeting)
        await work.commit()

    return app


def _with_litestar(sessions: Sessions, meeting: Meeting) -> Any:
    unit_of_work = litestar.unit_of_work_dependency(sessions, tenant=lambda request: request.headers[TENANT])

    async def other() -> str:
        return "another dependency"

    @post("/orders/{order:str}")
    async def place(order: FromPath[str], work: NamedDependency[UnitOfWork], other: NamedDependency[str]) -> None:
        async with work:
            await _two_halves(order)
            await work.commit()

    @post("/forgotten/{order:str}")
    async def forget(order: FromPath[str], work: NamedDependency[UnitOfWork]) -> None:
        async with work:
            await _two_halves(order)

    @post("/refused/{order:str}")
    async def refuse(order: FromPath[str], work: NamedDependency[UnitOfWork]) -> None:
        async with work:
            await _two_halves(order)
            await work.session.execute(text("SELECT 1"))
            raise LitestarHTTPException(status_code=409)

    @post("/meeting/{order:str}")
    async def meet(order: FromPath[str], work: NamedDependency[UnitOfWork]) -> None:
        async with work:
            await _two_halves(order, meeting)
            await work.commit()

    return Litestar(
        [place, forget, refuse, meet],
        dependencies={"work": Provide(unit_of_work), "other": Provide(other)},
        openapi_config=None,
    )


@pytest.fixture(params=[_with_fastapi, _with_litestar], ids=["fastapi", "litestar"])
async def client(request: pytest.FixtureRequest, sessions: Sessions) -> AsyncIterator[httpx.AsyncClient]:
    app = request.param(sessions, Meeting())
    async with _asking(app) as client:
        yield client


async def _orders(rows: Rows) -> list[str]:
    return [row.aggregate_id for row in await rows.all()]


async def test_a_request_that_commits_stores_its_events_for_its_tenant(client: httpx.AsyncClient, rows: Rows) -> None:
    response = await client.post("/orders/1", headers={TENANT: rows.tenant})

    assert response.is_success
    assert await _orders(rows) == ["1, first", "1, second"]


async def test_without_commit_nothing_is_stored(client: httpx.AsyncClient, rows: Rows) -> None:
    assert (await client.post("/forgotten/1", headers={TENANT: rows.tenant})).is_success

    assert await _orders(rows) == []


async def test_an_error_rolls_back_and_reaches_the_caller(client: httpx.AsyncClient, rows: Rows) -> None:
    assert (await client.post("/refused/1", headers={TENANT: rows.tenant})).status_code == 409
    assert (await client.post("/orders/2", headers={TENANT: rows.tenant})).is_success

    assert await _orders(rows) == ["2, first", "2, second"]


async def test_requests_at_the_same_time_do_not_mix(client: httpx.AsyncClient, sessions: Sessions) -> None:
    tenants = [unique("tenant"), unique("tenant")]

    answers = await asyncio.gather(*(client.post(f"/meeting/{tenant}", headers={TENANT: tenant}) for tenant in tenants))

    assert all(answer.is_success for answer in answers)
    for tenant in tenants:
        assert await _orders(Rows(sessions, tenant)) == [f"{tenant}, first", f"{tenant}, second"]


# FastAPI: what runs in threads


async def test_a_sync_endpoint_of_fastapi_sees_the_unit_of_work(sessions: Sessions, rows: Rows) -> None:
    unit_of_work = fastapi.unit_of_work_dependency(sessions, tenant=lambda request: request.headers[TENANT])
    app = FastAPI()

    @app.post("/orders/{order}")
    def place(order: str, work: UnitOfWork = Depends(unit_of_work)) -> None:  # noqa: B008
        register_event_from_aggregate(Placed(order))
        anyio.from_thread.run(work.commit)

    async with _asking(app) as client:
        assert (await client.post("/orders/1", headers={TENANT: rows.tenant})).is_success

    assert await _orders(rows) == ["1"]


async def test_what_a_sync_dependency_of_fastapi_sets_in_the_context_is_lost() -> None:
    """Why the dependency is async, and why middleware or an async dependency must set the tenant of `acting_for`."""
    setting: ContextVar[str] = ContextVar("setting", default="nothing")
    app = FastAPI()

    def in_a_thread() -> None:
        setting.set("set in a thread")

    async def in_the_task() -> None:
        setting.set("set in the task")

    @app.post("/sync", dependencies=[Depends(in_a_thread)])
    async def after_sync() -> str:
        return setting.get()

    @app.post("/async", dependencies=[Depends(in_the_task)])
    async def after_async() -> str:
        return setting.get()

    async with _asking(app) as client:
        assert (await client.post("/sync")).json() == "nothing"
        assert (await client.post("/async")).json() == "set in the task"


@pytest.mark.parametrize("framework", ["fastapi", "litestar"])
def test_without_the_framework_the_error_names_it(pytester: pytest.Pytester, framework: str) -> None:
    pytester.makepyfile(f"""
        import sys
        import pytest

        def test_import():
            sys.modules[{framework!r}] = None
            with pytest.raises(ImportError, match={framework!r}):
                import bento_outbox.integrations.{framework}
    """)

    pytester.runpytest_subprocess().assert_outcomes(passed=1)
