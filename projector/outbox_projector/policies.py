"""How long to wait: between polls, and after a failure. Pure; seconds in, seconds out."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

Random = Callable[[float, float], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """When a refused event is tried again, and when it is given up.

    maximum          refusals until an event is given up: the one that makes retry_cnt reach it turns the row to ERR
    initial_seconds  wait after the first refusal; doubles with each further one
    longest_seconds  the wait never exceeds this
    """

    maximum: int = 5
    initial_seconds: float = 0.5
    longest_seconds: float = 60.0

    def wait(self, attempt: int, uniform: Random = random.uniform) -> float:
        """Seconds until the attempt after the `attempt`-th failure (from 1).

        Full doubling with the upper half random, so that many tenants behind one outage do not return as one.
        """
        ceiling = min(self.longest_seconds, self.initial_seconds * 2.0 ** min(attempt - 1, 32))
        return uniform(ceiling / 2, ceiling)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How often the table is asked: fast while there is work, slower the longer there is none.

    fastest_seconds  first pause when nothing is left; doubles while that stays so
    slowest_seconds  longest pause of an idle projector; bounds the latency of the first event after a silence
    quiet_seconds    between two looks whether anything waits at all, while something else than the clock would tell
    """

    fastest_seconds: float = 0.02
    slowest_seconds: float = 1.0
    quiet_seconds: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.fastest_seconds <= self.slowest_seconds:
            raise ValueError(
                f"polling: the fastest pause ({self.fastest_seconds} s) must lie between 0 "
                f"and the slowest ({self.slowest_seconds} s)"
            )

    def next_pause(self, last: float) -> float:
        """Seconds until the next poll, after one that found nothing; `last` is the pause before that, 0 if none."""
        return min(self.slowest_seconds, max(self.fastest_seconds, last * 2))
