"""The work queue, in virtual time: what it promises about order, concurrency, failures and ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outbox_operator.errors import Unreachable
from outbox_operator.testing import ManualClock
from outbox_operator.workqueue import Backoff, WorkQueue


@dataclass
class Looks:
    """A process function that a test finishes by hand; it notices when a key runs twice at the same time."""

    begun: list[str] = field(default_factory=list)
    open: dict[str, asyncio.Future[float | None]] = field(default_factory=dict)

    async def __call__(self, key: str) -> float | None:
        assert key not in self.open, f"{key} runs twice at the same time"
        self.begun.append(key)
        self.open[key] = asyncio.get_running_loop().create_future()
        try:
            return await self.open[key]
        finally:
            del self.open[key]

    async def finish(self, key: str, result: float | None = None) -> None:
        self.open[key].set_result(result)
        await settle()

    async def fail(self, key: str, error: Exception) -> None:
        self.open[key].set_exception(error)
        await settle()


async def settle() -> None:
    """Lets everything that can go on go on."""
    for _ in range(10):
        await asyncio.sleep(0)


@dataclass
class Bench:
    queue: WorkQueue[str]
    looks: Looks
    clock: ManualClock

    async def add(self, *keys: str) -> None:
        for key in keys:
            self.queue.add(key)
        await settle()

    async def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await settle()


@asynccontextmanager
async def running(workers: int = 2, random: float = 1.0) -> AsyncIterator[Bench]:
    looks, clock = Looks(), ManualClock()
    backoff = Backoff(first_seconds=1, longest_seconds=8)
    queue = WorkQueue[str](looks, workers=workers, clock=clock, random=lambda: random, backoff=backoff)
    task = asyncio.create_task(queue.run())
    try:
        yield Bench(queue, looks, clock)
    finally:
        queue.stop()
        for future in looks.open.values():
            future.set_result(None)
        await task


async def test_many_events_are_one_look() -> None:
    async with running(workers=1) as bench:
        await bench.add("busy", "a", "a", "a")
        await bench.looks.finish("busy")
        await bench.looks.finish("a")
        assert bench.looks.begun == ["busy", "a"]


async def test_what_arrives_during_a_look_is_looked_at_once_more() -> None:
    async with running() as bench:
        await bench.add("a")
        await bench.add("a", "a")
        assert bench.looks.begun == ["a"]
        await bench.looks.finish("a")
        assert bench.looks.begun == ["a", "a"]
        await bench.looks.finish("a")
        assert bench.looks.begun == ["a", "a"]


async def test_keys_run_side_by_side_up_to_the_number_of_workers() -> None:
    async with running(workers=2) as bench:
        await bench.add("a", "b", "c")
        assert set(bench.looks.open) == {"a", "b"}
        await bench.looks.finish("b")
        assert set(bench.looks.open) == {"a", "c"}


async def test_one_that_hangs_does_not_hold_up_the_others() -> None:
    async with running(workers=2) as bench:
        await bench.add("stuck", "a", "b", "c")
        for key in ("a", "b", "c"):
            await bench.looks.finish(key)
        assert bench.looks.begun == ["stuck", "a", "b", "c"]


async def test_one_that_is_added_ahead_passes_those_that_can_wait() -> None:
    async with running(workers=1) as bench:
        await bench.add("busy", "a", "b")
        bench.queue.add("new", ahead=True)
        bench.queue.add("newer", ahead=True)
        for key in ("busy", "new", "newer", "a"):
            await bench.looks.finish(key)
        assert bench.looks.begun == ["busy", "new", "newer", "a", "b"]


async def test_none_is_passed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outbox_operator.workqueue.HANDICAP", 3)
    async with running(workers=1) as bench:
        await bench.add("busy", "patient")
        for number in range(5):
            bench.queue.add(f"new {number}", ahead=True)
        while bench.looks.open:
            await bench.looks.finish(*bench.looks.open)
        assert bench.looks.begun == ["busy", "new 0", "new 1", "patient", "new 2", "new 3", "new 4"]


async def test_failures_are_repeated_with_growing_waits() -> None:
    async with running() as bench:
        await bench.add("a")
        for wait in (1, 2, 4, 8, 8):
            await bench.looks.fail("a", Unreachable("down"))
            await bench.advance(wait - 0.01)
            assert not bench.looks.open
            await bench.advance(0.01)
            assert set(bench.looks.open) == {"a"}


async def test_half_of_a_wait_is_random() -> None:
    async with running(random=0.0) as bench:
        await bench.add("a")
        await bench.looks.fail("a", Unreachable("down"))
        await bench.advance(0.5)
        assert set(bench.looks.open) == {"a"}


async def test_a_success_forgets_the_failures() -> None:
    async with running() as bench:
        await bench.add("a")
        await bench.looks.fail("a", Unreachable("down"))
        await bench.advance(1)
        await bench.looks.finish("a")
        await bench.add("a")
        await bench.looks.fail("a", Unreachable("down"))
        await bench.advance(1)
        assert set(bench.looks.open) == {"a"}


async def test_the_server_may_ask_for_a_longer_wait() -> None:
    error = Unreachable("too many requests")
    error.retry_after_seconds = 30
    async with running() as bench:
        await bench.add("a")
        await bench.looks.fail("a", error)
        await bench.advance(29)
        assert not bench.looks.open
        await bench.advance(1)
        assert set(bench.looks.open) == {"a"}


async def test_news_do_not_wait_for_a_backoff() -> None:
    async with running() as bench:
        await bench.add("a")
        await bench.looks.fail("a", Unreachable("down"))
        await bench.add("a")
        await bench.looks.finish("a")
        await bench.advance(100)
        assert bench.looks.begun == ["a", "a"]


async def test_a_bug_is_logged_and_loses_no_key(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as bench:
        await bench.add("a")
        await bench.looks.fail("a", KeyError("spec"))
        await bench.advance(1)
        assert set(bench.looks.open) == {"a"}


async def test_a_look_may_ask_for_the_next_one() -> None:
    async with running() as bench:
        await bench.add("a")
        await bench.looks.finish("a", 60)
        await bench.advance(59)
        assert not bench.looks.open
        await bench.advance(1)
        assert set(bench.looks.open) == {"a"}


async def test_only_the_last_look_says_when_the_next_one_is() -> None:
    async with running() as bench:
        await bench.add("a")
        await bench.looks.finish("a", 60)
        await bench.add("a")
        await bench.looks.finish("a", 90)
        await bench.advance(89)
        assert not bench.looks.open
        assert bench.clock.pending == 1
        await bench.advance(1)
        await bench.looks.finish("a", None)
        assert bench.clock.pending == 0


async def test_stop_finishes_what_has_begun_and_begins_nothing() -> None:
    looks, clock = Looks(), ManualClock()
    queue = WorkQueue[str](looks, workers=1, clock=clock, random=lambda: 0.5)
    task = asyncio.create_task(queue.run())
    queue.add("a")
    queue.add("b")
    await settle()
    queue.stop()
    queue.add("c")
    await settle()
    assert not task.done()
    await looks.finish("a", 5)
    await task
    assert looks.begun == ["a"]
    assert clock.pending == 0


KEYS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS),
        st.tuples(st.just("finish"), KEYS),
        st.tuples(st.just("again in 5 s"), KEYS),
        st.tuples(st.just("fail"), KEYS),
        st.tuples(st.just("advance"), st.integers(0, 10)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(steps=STEPS, workers=st.integers(1, 3))
def test_no_key_runs_beside_itself_and_none_is_lost(steps: list[tuple[str, str | int]], workers: int) -> None:
    with asyncio.Runner() as runner:
        runner.run(_play(steps, workers))


async def _play(steps: list[tuple[str, str | int]], workers: int) -> None:
    """Plays the steps, then lets every look succeed: each key that was asked for must have had a look after that.

    That no key runs beside itself is checked by Looks at every begin.
    """
    async with running(workers=workers) as bench:
        owed: set[str] = set()
        for what, argument in steps:
            key, already = str(argument), len(bench.looks.begun)
            if what == "add":
                owed.add(key)
                await bench.add(key)
            elif what == "advance":
                await bench.advance(int(argument))
            elif key in bench.looks.open:
                if what == "fail":
                    owed.add(key)
                    await bench.looks.fail(key, Unreachable("down"))
                else:
                    await bench.looks.finish(key, 5 if what == "again in 5 s" else None)
            owed -= set(bench.looks.begun[already:])
            assert len(bench.looks.open) <= workers
        before = len(bench.looks.begun)
        for _ in range(100):
            for key in list(bench.looks.open):
                await bench.looks.finish(key)
            await bench.advance(1)
        assert owed <= set(bench.looks.begun[before:])
        assert not bench.looks.open
        assert bench.clock.pending == 0


async def test_caught_up_is_when_all_that_was_added_was_looked_at() -> None:
    async with running(workers=1) as bench:
        await bench.add("a", "b")
        caught_up = asyncio.create_task(bench.queue.caught_up())
        await bench.looks.finish("a")
        assert not caught_up.done()
        await bench.looks.finish("b", 60.0)
        assert caught_up.done()
