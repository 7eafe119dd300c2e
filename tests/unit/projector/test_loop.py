"""The loop where there is no database: everything else about it is in integration/test_projector."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from bento_outbox import InMemoryMessageBus
from outbox_projector import OutboxProjector
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.projector import Unobserved


class Watching(Unobserved):
    """Stops the projector after a number of turns that failed."""

    def __init__(self, turns: int) -> None:
        self.failures: list[DatabaseUnavailable] = []
        self.projector: OutboxProjector | None = None
        self._turns = turns

    def database_failed(self, error: DatabaseUnavailable) -> None:
        self.failures.append(error)
        if len(self.failures) == self._turns:
            assert self.projector is not None
            self.projector.stop()


def no_database() -> AsyncSession:
    raise DatabaseUnavailable("no database", reason="SecretNotFound")


async def test_a_database_that_is_not_there_is_an_outage_that_is_told_and_waited_out(
    memory_bus: InMemoryMessageBus,
) -> None:
    watching = Watching(turns=2)
    watching.projector = OutboxProjector(no_database, memory_bus, "acme", observer=watching)

    await watching.projector.run_forever()

    assert [failure.reason for failure in watching.failures] == ["SecretNotFound"] * 2


async def test_a_refused_connection_is_translated(memory_bus: InMemoryMessageBus) -> None:
    def refused() -> AsyncSession:
        raise ConnectionRefusedError("refused")

    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await OutboxProjector(refused, memory_bus, "acme").drain()


async def test_a_defect_ends_the_loop(memory_bus: InMemoryMessageBus) -> None:
    def defect() -> AsyncSession:
        raise KeyError("a defect of ours")

    with pytest.raises(KeyError):
        await OutboxProjector(defect, memory_bus, "acme").run_forever()


async def test_stop_before_the_start_ends_it_at_once(memory_bus: InMemoryMessageBus) -> None:
    projector = OutboxProjector(no_database, memory_bus, "acme")
    projector.stop()

    await projector.run_forever()


async def test_stop_interrupts_the_pause_of_an_outage(memory_bus: InMemoryMessageBus) -> None:
    watching = Watching(turns=1_000_000)
    projector = OutboxProjector(no_database, memory_bus, "acme", observer=watching)
    running = asyncio.create_task(projector.run_forever())
    await asyncio.wait([running], timeout=0)
    projector.stop()

    await running

    assert len(watching.failures) == 1


def test_a_batch_has_at_least_one_row(memory_bus: InMemoryMessageBus) -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        OutboxProjector(no_database, memory_bus, "acme", 0)
