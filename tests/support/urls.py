"""Where the database is, as the projector asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Url:
    """A URL that changes, as in a mounted Secret."""

    url: str

    def read(self) -> str:
        return self.url
