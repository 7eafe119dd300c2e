"""What a lane's publisher told of the broker's deduplication."""

from __future__ import annotations


class Seen:
    """Keeps it, in order."""

    def __init__(self) -> None:
        self.looks: list[bool] = []
        self.forgotten: list[int] = []

    def deduplication_seen(self, topic: str, *, active: bool) -> None:
        self.looks.append(active)

    def deduplication_forgotten(self, topic: str, *, perhaps_doubled: int) -> None:
        self.forgotten.append(perhaps_doubled)
