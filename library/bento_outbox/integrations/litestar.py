"""Litestar: a unit of work for each request.

    unit_of_work = unit_of_work_dependency(sessions, tenant=lambda request: request.headers["x-tenant"])

    @post("/orders", dependencies={"work": Provide(unit_of_work)})
    async def place(work: NamedDependency[UnitOfWork]) -> None:
        async with work:
            ...
            await work.commit()

The handler begins it, not the dependency: Litestar resolves several dependencies of a handler in tasks of their own,
where the current unit of work would be set and lost. Leaving the block without commit rolls back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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
) -> Callable[[AnyRequest], Awaitable[UnitOfWork]]:
    """The dependency: a unit of work that has not begun.

    tenant: tells whose request it is. options: as of UnitOfWork.
    """

    async def unit_of_work(request: AnyRequest) -> UnitOfWork:
        return UnitOfWork(session_factory, tenant_id=None if tenant is None else tenant(request), **options)

    return unit_of_work
