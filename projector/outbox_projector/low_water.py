"""Where claims begin to read: above what is settled. Pure; the clock gives seconds.

A row that was sent leaves a dead entry at the low end of the index until vacuum comes, and vacuum cannot remove it
while any transaction is open that might still see it, such as a forgotten session's. A claim from the bottom walks over
all of them, each time. So claims begin at the *low-water mark*, a sequence number below which nothing waited at two
looks in a row.

What may come below it later is a row that was inserted long before its transaction commits, and a failed one that is
requeued. The next look finds it and lowers the mark. A look reads from the bottom: once a second, and less often where
that takes long, so that it costs no more than a twentieth of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

BOTTOM = -(2**63)
LOOK_SECONDS = 1.0
LOOKING_SHARE = 0.05


class LowWater:
    """Of one tenant, as one process knows it; it begins at the bottom."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.mark = BOTTOM
        self.clock = clock
        self._candidate = BOTTOM  # the lowest that waited at the last look
        self._flows = False
        self._next_look = clock()

    def is_due(self) -> bool:
        """Whether to look now. While nothing flows claims begin at the bottom, and there is nothing to look for."""
        return self._flows and self.clock() >= self._next_look

    def claimed(self) -> None:
        """Rows flow."""
        self._flows = True

    def looked(self, lowest: int | None, *, took: float) -> None:
        """Takes the lowest sequence number that waits, None if none does, and the seconds that finding it took."""
        self.mark = BOTTOM if lowest is None else min(self._candidate, lowest)
        self._candidate = BOTTOM if lowest is None else lowest
        self._flows = lowest is not None
        self._next_look = self.clock() + max(LOOK_SECONDS, took / LOOKING_SHARE)
