"""A clock in seconds that stands still until it is told to go on."""

from __future__ import annotations


class Clock:
    """Calling it tells the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now
