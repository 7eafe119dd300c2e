"""Litestar: a unit of work for each request.

    unit_of_work = unit_of_work_dependency(sessions, tenant=lambda request: request.headers["x-tenant"])

    @post("/orders", dependencies={"work": Provide(unit_of_work)})
    async def place(work: UnitOfWork) -> None:
        ...
        await work.commit()

Commit in the handler, for the same reason as in FastAPI; a request that ends without commit is rolled back.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

from litestar import Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox.unit_of_work import UnitOfWork

AnyRequest = Request[Any, Any, Any]


def unit_of_work_dependency(
    session_factory: async_sessionmaker[AsyncSession],
    *,
    tenant: Callable[[AnyRequest], str] | None = None,
    **options: Any,
) -> Callable[[AnyRequest], AsyncGenerator[UnitOfWork, None]]:
    """The dependency. tenant: tells whose request it is. options: as of UnitOfWork."""

    async def unit_of_work(request: AnyRequest) -> AsyncGenerator[UnitOfWork, None]:
        tenant_id = None if tenant is None else tenant(request)
        async with UnitOfWork(session_factory, tenant_id=tenant_id, **options) as work:
            yield work

    return unit_of_work
