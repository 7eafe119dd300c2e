"""The fixtures of the tests of lanes: a lane's store and its lease."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from bento_outbox.table import outbox_table
from outbox_projector import Retries
from outbox_projector.flights import Lease
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.sessions import borrowed
from tests.support.lanes import acquired, topic_of

LATER = Retries(maximum=3, initial_seconds=3600, longest_seconds=3600)


@pytest.fixture
def new_store(sessions: async_sessionmaker[AsyncSession], tenant: str) -> Callable[..., PostgresLaneStore]:
    """Makes a store of the tenant's lanes, where a refused row waits for an hour."""

    def make(**options: Any) -> PostgresLaneStore:
        settings: dict[str, Any] = {"tenant_id": tenant, "retries": LATER, "topic_of": topic_of} | options
        return PostgresLaneStore(borrowed(sessions), outbox_table, **settings)

    return make


@pytest.fixture
def store(new_store: Callable[..., PostgresLaneStore]) -> PostgresLaneStore:
    return new_store()


@pytest.fixture
async def lease(sessions: async_sessionmaker[AsyncSession], tenant: str) -> Lease:
    """Of the tenant's only lane."""
    return await acquired(sessions, tenant)
