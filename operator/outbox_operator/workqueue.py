"""A queue of keys, each of which stands for "look at this again".

A key is in one of these places, and moves between them as follows:

                 add                    a worker is free
    (nowhere) ─────────► waiting ─────────────────────────► running
        ▲                   ▲                                  │
        │                   │ added meanwhile ─────────────────┤
        │                   │ time is up                       │
        │                 later ◄── failed, or asks for it ────┤
        └──────────────────────────────── done ────────────────┘

- A key that waits is not added twice: however many events arrive, they are one look.
- A key never runs twice at the same time. What is added while it runs is looked at once more afterwards, because the
  look may have read what the event was about before it changed. So nothing is lost.
- Keys are looked at in the order in which they were added, but one that is added `ahead` passes those that are not. It
  passes at most HANDICAP of them that came before it, so none waits for ever.
- A look that fails is repeated with growing, jittered waits; news about the key does not wait for that.
- A slow or failing key holds at most one worker, so it does not hold up the others.

The clock and the randomness are passed in, so tests need no real time. Everything runs in one event loop; only `run`
waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

import structlog

from outbox_operator.errors import ClusterError

logger = structlog.get_logger(__name__)

K = TypeVar("K", bound=Hashable)

HANDICAP: Final = 10_000
"""How many keys that are added later may pass one that waits. More than a burst has, so that all of it comes first."""


class Timer(Protocol):
    """What a clock returns for a call that it is to make."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """The two methods of an event loop that tell time and wait for it."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer: ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits after failures in a row: `first_seconds`, doubled each time up to `longest_seconds`, half of it random."""

    first_seconds: float = 0.5
    longest_seconds: float = 300.0

    def seconds(self, failures: int, *, random: Callable[[], float]) -> float:
        """The wait after that many failures; `random` returns numbers from 0 to 1."""
        full = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures - 1, 32))
        return full * (1 + random()) / 2


class WorkQueue(Generic[K]):
    """See the module. `process` gets a key and returns after how many seconds it wants the key again, or None."""

    def __init__(
        self,
        process: Callable[[K], Awaitable[float | None]],
        *,
        workers: int,
        clock: Clock,
        random: Callable[[], float],
        backoff: Backoff | None = None,
    ) -> None:
        self._process = process
        self._workers = workers
        self._clock = clock
        self._random = random
        self._backoff = backoff or Backoff()
        self._order: asyncio.PriorityQueue[tuple[int, int, K | None]] = asyncio.PriorityQueue()
        """The keys that wait, by their places; None only wakes a worker up so that it sees the stop."""
        self._added = count(HANDICAP)
        self._waiting: set[K] = set()
        self._running: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, Timer] = {}
        self._failures: dict[K, int] = {}
        self._stopping = False
        self.done = 0
        """Looks so far that went well."""
        self.failed = 0
        """Looks so far that failed."""

    @property
    def waiting(self) -> int:
        """How many keys wait."""
        return len(self._waiting)

    def add(self, key: K, *, ahead: bool = False) -> None:
        """Asks for a look at `key`, as soon as a worker is free; `ahead` of those that can rather wait."""
        if timer := self._later.pop(key, None):
            timer.cancel()
        if key in self._running:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            number = next(self._added)
            self._order.put_nowait((number - HANDICAP if ahead else number, number, key))

    async def run(self) -> None:
        """Works until `stop`, then ends as soon as the looks that have begun are through."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"worker {number}")

    async def caught_up(self) -> None:
        """Until every key that was added so far was looked at."""
        await self._order.join()

    def stop(self) -> None:
        """Begins nothing new from now on."""
        self._stopping = True
        for timer in self._later.values():
            timer.cancel()
        for _ in range(self._workers):
            self._order.put_nowait((-1, next(self._added), None))

    async def _work(self) -> None:
        while True:
            _, _, key = await self._order.get()
            if key is None or self._stopping:
                return
            self._waiting.remove(key)
            self._running.add(key)
            try:
                seconds = await self._look(key)
            finally:
                self._running.remove(key)
                self._order.task_done()
            if key in self._again:
                self._again.remove(key)
                self.add(key)
            elif seconds is not None and not self._stopping:
                self._later[key] = self._clock.call_at(self._clock.time() + seconds, partial(self.add, key))

    async def _look(self, key: K) -> float | None:
        """Processes a key; returns after how many seconds it is due again, or None when only news matter."""
        try:
            seconds = await self._process(key)
        except ClusterError as error:
            seconds = self._after_failure(key, at_least=error.retry_after_seconds or 0.0)
            logger.warning("reconcile failed", key=str(key), error=str(error), retry_in_seconds=round(seconds, 1))
        except Exception:
            seconds = self._after_failure(key)
            logger.exception("reconcile failed, this is a bug", key=str(key), retry_in_seconds=round(seconds, 1))
        else:
            self._failures.pop(key, None)
            self.done += 1
        return seconds

    def _after_failure(self, key: K, *, at_least: float = 0.0) -> float:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.failed += 1
        return max(at_least, self._backoff.seconds(failures, random=self._random))
