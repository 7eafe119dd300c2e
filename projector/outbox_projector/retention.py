"""The third loop: old rows are deleted, SENT ones after their limit, ERR ones only if they have one, NEW ones never.

A batch is one short transaction, and one pod at a time deletes a tenant's rows; one that finds another at it deletes
nothing and does not wait. After a full batch comes a pause at least as long as the batch took, so that deleting takes
no more than half of one connection; when nothing is old, a long one. Nothing depends on this loop: it may be cancelled
at any time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from bento_outbox.sql_files import Named
from outbox_projector.database import Connect, transaction
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.sql import statements

log = structlog.get_logger()

BATCH_SIZE = 1000
PAUSE_SECONDS = 0.05
"""Least pause after a full batch: some 15,000 rows a second at most, more than one projector writes in the long run."""
SOONEST_SECONDS, LATEST_SECONDS = 10.0, 600.0
"""Bounds of the pause when nothing is old; between them it is a tenth of the limit, by which rows may outlive it."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Rows of this status are deleted when they are older than so many seconds."""

    status: Literal["SENT", "ERR"]
    keep_seconds: float


class Retention:
    """Deletes one tenant's old rows."""

    def __init__(
        self,
        connect: Connect,
        table: Named,
        tenant_id: str,
        *limits: Limit,
        deleted: Callable[[int], None],
        batch_size: int = BATCH_SIZE,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """limits: one a status. deleted: told how many rows each batch deleted.

        The role needs DELETE on the table.
        """
        self._connect = connect
        self._tenant_id = tenant_id
        self._limits = limits
        self._deleted = deleted
        self._batch_size = batch_size
        self._rest = rest
        self._sql = statements(__package__, "retention.sql", table)

    async def run_forever(self) -> None:
        """Until it is cancelled. Outages are waited out."""
        latest = min(limit.keep_seconds for limit in self._limits) / 10
        idle = min(LATEST_SECONDS, max(SOONEST_SECONDS, latest))
        while True:
            began = time.monotonic()
            try:
                more = [await self.delete_batch(limit) == self._batch_size for limit in self._limits]
            except DatabaseUnavailable as outage:
                log.warning("old rows not deleted", reason=outage.reason, cause=str(outage))
                more = []
            took = time.monotonic() - began
            await self._rest(max(PAUSE_SECONDS, took) if any(more) else idle * random.uniform(0.8, 1.2))  # noqa: S311 - spreads tenants

    async def delete_batch(self, limit: Limit) -> int:
        """Deletes a batch at most; returns how many rows: as many as a batch has, and there may be more.

        Raises DatabaseUnavailable.
        """
        values = {"tenant_id": self._tenant_id, "keep_seconds": limit.keep_seconds, "batch_size": self._batch_size}
        async with transaction(self._connect) as connection:
            if not await self._sql["turn"].value(connection, values):
                return 0
            deleted = await self._sql[f"delete_{limit.status.lower()}"].run(connection, values)
        self._deleted(deleted)
        return deleted
