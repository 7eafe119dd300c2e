"""A clock that stands still until it is told to go on, and the health of a projector that lives by it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from outbox_projector.health import Health
from outbox_projector.metrics import Metrics


class Clock:
    """Called for the current time."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        self._passed = 0.0

    def __call__(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return self._passed

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self._passed += seconds

    def set_back(self, seconds: float) -> None:
        self.now -= timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("acme")


@pytest.fixture
def health(metrics: Metrics, clock: Clock) -> Health:
    return Health(metrics, clock, clock.monotonic)
