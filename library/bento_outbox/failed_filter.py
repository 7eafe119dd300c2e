"""Which failed events are meant, and what is to become of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from bento_outbox.errors import MisuseError

Action = Literal["requeue", "discard"]

BATCH_SIZE = 1000
"""Rows a transaction: long enough to be quick, short enough to hold up no projector."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which failed events of a tenant; what is None holds nothing back.

    error: part of the reason, whatever its case. since, until: when the event was created; failed_since, failed_until:
    when it became ERR. Ends are exclusive, times have a time zone, and no text is empty. Raises MisuseError.
    """

    tenant_id: str
    type: str | None = None
    aggregate_id: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    failed_since: datetime | None = None
    failed_until: datetime | None = None
    ids: tuple[UUID, ...] | None = None

    def __post_init__(self) -> None:
        if not self.tenant_id:
            raise MisuseError("a tenant's id is not empty: name the tenant whose events are meant")
        for name in ("type", "aggregate_id", "error"):
            # Most often a variable of the shell that was not set; as a part of an error it would match all of them.
            if getattr(self, name) == "":
                raise MisuseError(f"{name} is empty: name what it is to match, or leave it out")
        for first, last in (("since", "until"), ("failed_since", "failed_until")):
            begin, end = getattr(self, first), getattr(self, last)
            for name, moment in ((first, begin), (last, end)):
                if moment is not None and moment.tzinfo is None:
                    raise MisuseError(f"{name} has no time zone: write it as in 2026-01-31T03:00:00+00:00")
            if begin and end and begin >= end:
                raise MisuseError(f"{first} is not before {last}, so no event is between them")

    @property
    def takes_all(self) -> bool:
        """Whether it holds nothing back but other tenants' events."""
        return all(getattr(self, name) is None for name in self.__slots__ if name != "tenant_id")

    def values(self, *, after: int | None, through: int | None, limit: int | None) -> Mapping[str, Any]:
        """What the statement `find` asks for; `after` < seq <= `through`, at most `limit` rows."""
        values = {name: getattr(self, name) for name in self.__slots__}
        values["ids"] = None if self.ids is None else list(self.ids)
        return values | {"after_seq": after, "through_seq": through, "row_limit": limit}
