"""FastAPI: a unit of work for each request.

    unit_of_work = unit_of_work_dependency(sessions, tenant=lambda request: request.headers["x-tenant"])

    @app.post("/orders")
    async def place(work: Annotated[UnitOfWork, Depends(unit_of_work)]) -> None:
        ...
        await work.commit()

Commit in the endpoint: what follows the `yield` of a dependency may run after the response was sent, when a failed
commit could no longer be told. A request that ends without commit is rolled back.

The dependency is async, and one that wraps it must be so as well: FastAPI runs a sync dependency in a thread with a
copy of the context, where the current unit of work would be set and lost. A sync endpoint sees the unit of work; it
commits with `anyio.from_thread.run(work.commit)`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox.unit_of_work import UnitOfWork


def unit_of_work_dependency(
    session_factory: async_sessionmaker[AsyncSession],
    *,
    tenant: Callable[[Request], str] | None = None,
    **options: Any,
) -> Callable[[Request], AsyncIterator[UnitOfWork]]:
    """The dependency. tenant: tells whose request it is. options: as of UnitOfWork."""

    async def unit_of_work(request: Request) -> AsyncIterator[UnitOfWork]:
        tenant_id = None if tenant is None else tenant(request)
        async with UnitOfWork(session_factory, tenant_id=tenant_id, **options) as work:
            yield work

    return unit_of_work
