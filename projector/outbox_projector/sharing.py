"""How the processes of a tenant share its lanes: who takes which, who gives back, and when the number changes. Pure.

Each process looks at the whole fleet every few seconds and decides for itself; what two of them want at the same time
is decided by the database, one lane at a time.

    even          each owns lanes // members, the oldest ones one more; who has more gives back, who has less takes
    expired       a lane whose owner let its lease run out is taken by whoever sees it first, and evened out later
    changing      the youngest member wants another number of lanes: all are given back, flights that have not landed
                  are landed by whoever takes their lane for that alone, and then the number is changed; a flight whose
                  lane has no partition any more goes by another lane
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from outbox_projector.flights import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What one process sees of all.

    lanes    how many there are
    wanted   how many there should be
    members  processes that share them, this one included
    rank     how many of them are older than this one
    taken    lanes that others own
    expired  lanes of others who let the lease run out
    flying   lanes with flights that have not landed
    waiting  whether there are events to deliver, now or later
    """

    lanes: int
    wanted: int
    members: int = 1
    rank: int = 0
    taken: Collection[int] = ()
    expired: Collection[int] = ()
    flying: Collection[int] = ()
    waiting: bool = True

    @property
    def is_quiet(self) -> bool:
        """Nothing to deliver, and nobody to share it with."""
        return not self.waiting and self.members == 1 and not self.taken

    @property
    def is_changing(self) -> bool:
        return self.lanes != self.wanted

    @property
    def fair(self) -> int:
        """How many lanes are this process's share."""
        return self.lanes // self.members + (self.rank < self.lanes % self.members)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a process does now.

    take       lanes to acquire
    land       lanes to acquire only until their flights have landed
    give_back  lanes that it owns and stops
    change     whether the number of lanes can be changed now
    """

    take: list[int] = field(default_factory=list)
    land: list[int] = field(default_factory=list)
    give_back: list[int] = field(default_factory=list)
    change: bool = False


def decide(fleet: Fleet, owned: Collection[int]) -> Decision:
    """owned: the lanes of this process."""
    free = [lane for lane in range(fleet.lanes) if lane not in owned and lane not in fleet.taken]
    if fleet.is_changing:
        land = [lane for lane in free if lane in fleet.flying]
        return Decision(land=land, give_back=sorted(owned), change=not fleet.flying)
    expired = [lane for lane in free if lane in fleet.expired]
    missing = max(0, fleet.fair - len(owned) - len(expired))
    take = expired + [lane for lane in free if lane not in fleet.expired][:missing]
    return Decision(take=take, give_back=sorted(owned)[fleet.fair :])


class Leases(Protocol):
    """The database as the processes of a tenant share it. Every call is one transaction; raises DatabaseUnavailable."""

    async def beat(self) -> Fleet | None:
        """Says that this process is there, and what there is; None: ask again."""
        ...

    async def acquire(self, lane: int, *, seconds: float) -> Lease | None:
        """The lane for so long, if nobody else holds it."""
        ...

    async def release(self, lease: Lease) -> bool:
        """Gives it back, if it is still ours; whether it was."""
        ...

    async def change(self, lanes: int) -> bool:
        """Whether there are so many lanes from now on: not while a flight has not landed. No lane has an owner then."""
        ...

    async def leave(self) -> None:
        """This process shares no more."""
        ...
