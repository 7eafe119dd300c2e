"""The projector's loop: see who is there → share the lanes → carry those that are ours → rest.

A tenant's rows are split into lanes by a hash of their key, and each lane has one owner at a time, by a lease in the
database. Each process owns some of them, one task each (`lane.py` has the life of a row). Every few seconds it looks
who else is there and decides which lanes to take and which to give back (`sharing.py`). A lane that is given back ends
the flight in the air before; a lane whose owner crashed is taken when its lease has run out, and the new owner begins
by ending what was under way.

Outages are waited out, by each lane and by the loop itself. Any other error is a defect and ends the process.

Stopping: `stop` lets every lane end its flight and gives them back; nothing new is begun.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog

from bento_outbox import BusUnavailable
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import LEASE_SECONDS, LanePublisher, LaneStore, Lease, LeaseLost
from outbox_projector.lane import OUTAGE, Lane, LaneObserver
from outbox_projector.policies import Polling
from outbox_projector.sharing import Decision, Leases, decide

log = structlog.get_logger()

LOOK_SECONDS = 3.0
"""Between two looks at who is there. With the lease (10 s) it bounds how late a crash is taken over."""
WARY_LOOKS = 200
"""Looks, ten minutes of them, for which a projector is not quiet after it came upon an event that nobody had announced:
there is a writer that does not notify, and its next event should not wait for long."""
CHANGING_SECONDS = 0.2
"""While lanes are being given back for another number of them: nobody publishes meanwhile."""
Rest = Callable[[asyncio.Event, float], Awaitable[None]]


async def rest(wanted: asyncio.Event, seconds: float) -> None:
    """Until the event is set, or so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that comes with the event
            await wanted.wait()


@dataclass(frozen=True, slots=True)
class _Owned:
    """A lane of ours."""

    lane: Lane
    task: asyncio.Task[bool]
    wanted: asyncio.Event  # set by whoever wants it to go on, cleared when it does

    def stop(self) -> None:
        self.lane.stop()
        self.wanted.set()


class LaneProjector:
    """Carries a share of one tenant's lanes until it is stopped."""

    def __init__(
        self,
        *,
        leases: Leases,
        store: LaneStore,
        publisher_of: Callable[[Lease], LanePublisher],
        batch_size: int,
        polling: Polling,
        observer: LaneObserver,
        listening: Callable[[], bool] = lambda: False,
        rest: Rest = rest,
    ) -> None:
        """publisher_of: the broker as the owner of the lane sees it. batch_size: rows a flight, from 1.

        listening: whether somebody calls `wake` when events, or other processes, come.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but a batch has at least 1 row")
        self._leases = leases
        self._store = store
        self._publisher_of = publisher_of
        self._batch_size = batch_size
        self._polling = polling
        self._observer = observer
        self._listening = listening
        self._rest = rest
        self._owned: dict[int, _Owned] = {}
        self._wanted = asyncio.Event()  # a look, and not only when it is due
        self._woken = asyncio.Event()  # since the last look
        self._quiet = False
        self._wary = 0  # looks until it may be quiet again
        self._stopping = False

    def stop(self) -> None:
        """Ends `run_forever` after the flights in the air. Idempotent; fit for a signal handler of the event loop."""
        self._stopping = True
        self._look_now()
        for owned in self._owned.values():
            owned.stop()

    def wake(self) -> None:
        """Something may have come: every lane asks the database now. Fit to be called at any rate."""
        self._quiet = False
        self._woken.set()
        for owned in self._owned.values():
            owned.wanted.set()

    @property
    def carries(self) -> bool:
        """Whether any lane is ours."""
        return bool(self._owned)

    @property
    def is_quiet(self) -> bool:
        """No event waits, and no other process would see one first: nothing is asked until `wake`, or the next look."""
        return self._quiet

    async def run_forever(self) -> None:
        """Runs until `stop`. Outages are waited out; any other error is a defect and is raised."""
        outages = 0
        try:
            while not self._stopping:
                self._observer.turned()
                try:
                    pause = await self._share()
                    self._observer.database_answered()
                    outages = 0
                except (DatabaseUnavailable, BusUnavailable) as outage:
                    if isinstance(outage, DatabaseUnavailable):
                        self._observer.database_failed(outage)
                    else:
                        self._observer.database_answered()
                    outages += 1
                    pause = OUTAGE.wait(outages)
                    self._tell(outage, pause)
                    self._become_quiet(False)
                await self._until_next(pause)
            await self._give_back_all()
        finally:
            # Cut off, or ended by a defect: what is in the air is ended by the next owners.
            for owned in self._owned.values():
                owned.task.cancel()
            await asyncio.gather(*(owned.task for owned in self._owned.values()), return_exceptions=True)

    async def drain(self) -> None:
        """Carries what may go now, of the lanes that are free, and gives them back; for tests and for batch jobs.

        Raises DatabaseUnavailable, BusUnavailable.
        """
        try:
            while not await self._drained():
                await self._rest(self._wanted, CHANGING_SECONDS)
        finally:
            with contextlib.suppress(DatabaseUnavailable):
                await self._leases.leave()

    async def _drained(self) -> bool:
        """Whether the lanes could be drained: not while their number changes."""
        fleet = await self._leases.beat()
        if fleet is None:
            return False
        decision = decide(fleet, ())
        await self._land(decision.land)
        if decision.change:
            await self._leases.change(fleet.wanted)
        for number in decision.take:
            if lease := await self._leases.acquire(number, seconds=LEASE_SECONDS):
                await self._while_owner(lease, self._lane(lease, asyncio.Event()).drain())
        return not fleet.is_changing

    async def _share(self) -> float:
        """One look and what follows from it; seconds until the next."""
        announced = self._woken.is_set()
        self._woken.clear()
        fleet = await self._leases.beat()
        if fleet is None:
            return CHANGING_SECONDS
        announced = announced or self._woken.is_set()
        self._wary = WARY_LOOKS if self._quiet and fleet.waiting and not announced else max(0, self._wary - 1)
        decision = decide(fleet, self._owned)
        may_rest = fleet.is_quiet and decision == Decision() and self._listening() and not self._woken.is_set()
        troubled = any(owned.lane.is_troubled for owned in self._owned.values())
        self._become_quiet(may_rest and not self._wary and not troubled)
        for number in decision.give_back:
            self._owned[number].stop()
        await self._land(decision.land)
        if decision.change and await self._leases.change(fleet.wanted):
            log.info("lanes changed", lanes=fleet.wanted, before=fleet.lanes)
            return 0.0
        await self._take(decision)
        return CHANGING_SECONDS if fleet.is_changing else LOOK_SECONDS

    async def _land(self, numbers: Iterable[int]) -> None:
        """All that can land; then raises what one of the others met."""
        trouble = None
        for number in numbers:
            if lease := await self._leases.acquire(number, seconds=LEASE_SECONDS):
                try:
                    await self._while_owner(lease, self._lane(lease, asyncio.Event()).land())
                except BusUnavailable as error:
                    trouble = error
        if trouble:
            raise trouble

    async def _take(self, decision: Decision) -> None:
        for number in decision.take:
            lease = await self._leases.acquire(number, seconds=LEASE_SECONDS)
            if lease is not None and not self._stopping:
                log.info("lane acquired", lane=lease.lane, lanes=lease.lanes, epoch=lease.epoch)
                wanted = asyncio.Event()
                lane = self._lane(lease, wanted)
                task = asyncio.create_task(self._while_owner(lease, lane.run()), name=f"lane {number}")
                task.add_done_callback(self._ended)
                self._owned[number] = _Owned(lane, task, wanted)
            elif lease is not None:
                await self._leases.release(lease)

    def _lane(self, lease: Lease, wanted: asyncio.Event) -> Lane:
        async def nap(seconds: float) -> None:
            await self._rest(wanted, seconds)
            if self._quiet:
                await wanted.wait()
            wanted.clear()

        return Lane(
            lease=lease,
            store=self._store,
            publisher=self._publisher_of(lease),
            batch_size=self._batch_size,
            polling=self._polling,
            observer=self._observer,
            rest=nap,
        )

    async def _while_owner(self, lease: Lease, carried: Awaitable[None]) -> bool:
        """Whether the lane was ours to the end; given back in any case."""
        try:
            await carried
        except LeaseLost as lost:
            log.warning("lane lost", lane=lease.lane, epoch=lease.epoch, cause=str(lost))
            if await self._release(lease):
                # Still ours in the database, so it was no owner of the lane; or a former one who does not know yet.
                self._observer.broker_failed(
                    BusUnavailable(
                        f"{lost}: the topic, or the lane's partition of it, must have no other producer, "
                        "such as a direct publish or another OutboxTenant",
                        reason="BrokerRefused",
                    )
                )
            return False
        except (DatabaseUnavailable, BusUnavailable):
            await self._release(lease)
            raise
        await self._release(lease)
        return True

    async def _release(self, lease: Lease) -> bool:
        """Whether it was ours. Nothing is lost where it fails: the lease runs out."""
        self._observer.lane_ended(lease.lane)
        with contextlib.suppress(DatabaseUnavailable):
            return await self._leases.release(lease)
        return False

    def _ended(self, task: asyncio.Task[bool]) -> None:
        # After a loss not at once: two that fence each other would do nothing else.
        if task.cancelled() or task.exception() or task.result():
            self._look_now()

    def _look_now(self) -> None:
        self._wanted.set()
        self._woken.set()

    def _become_quiet(self, quiet: bool) -> None:
        if self._quiet and not quiet:
            self.wake()
        self._quiet = quiet

    async def _until_next(self, seconds: float) -> None:
        await self._rest(self._wanted, seconds)
        if self._quiet:
            await self._rest(self._woken, self._polling.quiet_seconds - seconds)
        if not self._stopping:
            self._wanted.clear()
        for number, owned in list(self._owned.items()):
            if owned.task.done():
                del self._owned[number]
                owned.task.result()  # raises the defect that ended it

    async def _give_back_all(self) -> None:
        for owned in self._owned.values():
            owned.stop()
        await asyncio.gather(*(owned.task for owned in self._owned.values()))
        with contextlib.suppress(DatabaseUnavailable):
            await self._leases.leave()

    def _tell(self, outage: DatabaseUnavailable | BusUnavailable, pause: float) -> None:
        log.warning("outage", reason=outage.reason, cause=str(outage), retry_in_seconds=round(pause, 1))
