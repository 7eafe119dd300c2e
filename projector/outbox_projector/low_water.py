"""Where claims begin to read: above what is settled. Pure; the clock gives seconds.

A row that was sent leaves a dead entry at the low end of the index until vacuum comes, and vacuum cannot remove it
while any transaction is open that might still see it, such as a forgotten session's. A claim from the bottom walks over
all of them, each time. So claims begin at the *low-water mark*, a sequence number below which nothing waits any more.

A row gets its number when it is inserted, and is seen when its transaction commits: a row below the lowest that waits
may still come, and a later one of its key, of another transaction or of the same, must not overtake it. So the lowest
of a look becomes the mark only when all transactions have ended that were open at the look after it (a row has its
number some microseconds before its transaction has an id, hence not those of the same look). A writer that stays open
keeps the mark where it is: claims get slower then, but order does not suffer.

So a look begins at the mark itself, twice a second. What comes below the mark nevertheless is a failed row that is
requeued. It is found by a look from the bottom, which lowers the mark; that walks over all dead entries, so it comes
less often where it takes long, and costs no more than a twentieth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

BOTTOM = -(2**63)
LOOK_SECONDS = 0.5
LOOKING_SHARE = 0.05
MOST_LOOKS = 8


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen at one moment.

    lowest: sequence number of the lowest row that waits. oldest_open: id of the oldest transaction that is open.
    next_id: that of the next transaction to begin.
    """

    lowest: int
    oldest_open: int
    next_id: int


class LowWater:
    """Of one tenant, as one process knows it; it begins at the bottom."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.mark = BOTTOM
        self._looks: list[Look] = []
        self._flows = False
        self._next_look = self._next_from_bottom = clock()

    def look_from(self) -> int | None:
        """Where a look has to begin now; None: none is due. While nothing flows there is nothing to look for."""
        if not self._flows:
            return None
        if self.clock() >= self._next_from_bottom:
            return BOTTOM
        return self.mark if self.mark > BOTTOM and self.clock() >= self._next_look else None

    def claimed(self) -> None:
        """Rows flow."""
        self._flows = True

    def looked(self, look: Look | None, *, begin: int, took: float) -> None:
        """Takes what was seen from `begin` on, None if no row waits there, and the seconds that it took."""
        pause = max(LOOK_SECONDS, took / LOOKING_SHARE)
        if begin == BOTTOM:
            self._next_from_bottom, self._next_look = self.clock() + pause, self.clock() + LOOK_SECONDS
        else:
            self._next_look = self.clock() + pause
        if look is None:
            if begin == BOTTOM:
                self.forget()
            else:
                self._next_from_bottom = self.clock()  # if anything waits, it is below
            return
        over = [number for number, earlier in enumerate(self._looks) if earlier.next_id <= look.oldest_open]
        if over and over[-1] > 0:
            self.mark = self._looks[over[-1] - 1].lowest
            del self._looks[: over[-1]]
        self.mark = min(self.mark, look.lowest)
        # While a transaction stays open only the earliest looks matter, which are over first.
        if len(self._looks) < MOST_LOOKS:
            self._looks.append(look)

    def forget(self) -> None:
        """Begins at the bottom again: nothing waits, or the database may be another one."""
        self.mark, self._looks, self._flows = BOTTOM, [], False
