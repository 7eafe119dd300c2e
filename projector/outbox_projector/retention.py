"""Old rows are deleted: SENT ones after their limit, ERR ones only if they were given a limit, NEW ones never.

A batch is one short transaction, and one pod at a time deletes a tenant's rows. A pod that finds another one at it
deletes nothing, and does not wait.
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Table
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.statements import statement


async def delete_old(
    engine: AsyncEngine,
    table: Table,
    tenant_id: str,
    *,
    status: Literal["SENT", "ERR"],
    keep_seconds: float,
    batch_size: int = 1000,
) -> int:
    """Deletes up to a batch of rows that were sent (or, if never, created) longer ago than `keep_seconds`.

    Returns how many; a full batch says that there may be more. The role needs DELETE on the table.
    """
    values = {"tenant_id": tenant_id, "status": status, "keep_seconds": keep_seconds, "batch_size": batch_size}
    async with engine.begin() as connection:
        result: CursorResult[Any] = await connection.execute(
            statement("outbox_projector", "retention.sql", "delete_old", table), values
        )
        return result.rowcount
