"""One lane, by its owner: recover → claim → publish → settle.

The life of a row, and who may touch it. Every write states the owner's epoch: a former owner changes nothing.

    NEW ──claim──► NEW, in a flight ──publish──► on the bus ──settle──► SENT
     ▲                    │                                      │
     ├── withdrawn ◄──────┤                                      │
     └── refused: retry_cnt + 1, available later ◄───────────────┤
                                                                 └─► ERR   no attempt left, or none can succeed

A crash
    before the claim commits       nothing has happened
    between claim and settle       the flight is in the database: the next owner sends it again, the same rows under the
                                   same ids, and the broker drops it if it has it
    after settle                   nothing is left to do

While more rows wait than a flight takes, database and broker work side by side: while one flight is published, one
transaction settles the flight before it and claims the flight after it. Otherwise the next claim waits for the broker:
so it finds what has come meanwhile, which else would miss it and wait for two flights. Only one flight is in the air:
one that is refused must not be overtaken by later rows.

A flight that is refused as a whole is cut: withdrawn, and claimed again by halves, until one row is alone and at fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar
from uuid import UUID

import structlog

from bento_outbox import BusUnavailable, EventsRefused, Refusal
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import (
    Flight,
    FlightRefused,
    LanePublisher,
    LaneStore,
    Lease,
    LeaseLost,
    NoPartition,
    Producer,
    Turn,
    Turned,
)
from outbox_projector.policies import Polling, Retries

log = structlog.get_logger()
Answer = TypeVar("Answer")

OUTAGE = Retries(initial_seconds=0.5, longest_seconds=10.0)
"""Pauses while the database or the bus cannot be used. 10 s bounds how late recovery is noticed."""
MOST_PRODUCERS = 200
"""Open at a time: rows may choose topics without number, and each takes 20 KB here, and a place in each turn."""


class LaneObserver(Protocol):
    """Told what lanes see; must not block or raise. lane: the number of the one that it happened to, if it was one.

    given_up: a flight that may have been sent, of which the broker cannot be asked whether it has it; its rows go anew.
    """

    def turned(self) -> None: ...
    def database_answered(self, lane: int | None = None) -> None: ...
    def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None: ...
    def broker_answered(self, lane: int | None = None) -> None: ...
    def broker_failed(self, error: BusUnavailable, lane: int | None = None) -> None: ...
    def lane_ended(self, lane: int) -> None: ...
    def settled(self, *, sent: int, retried: int, failed: int) -> None: ...
    def counter_behind(self, topic: str) -> None: ...
    def given_up(self, flight: Flight) -> None: ...


class Lane:
    """Carries the rows of one lane until it is stopped or taken over."""

    def __init__(
        self,
        *,
        lease: Lease,
        store: LaneStore,
        publisher: LanePublisher,
        batch_size: int,
        polling: Polling,
        observer: LaneObserver,
        rest: Callable[[float], Awaitable[None]],
    ) -> None:
        """rest: waits so many seconds, or less when something may have come."""
        self._lease = lease
        self._store = store
        self._publisher = publisher
        self._polling = polling
        self._observer = observer
        self._rest = rest
        self._cut = _Cut(batch_size)
        self._producers: dict[str, Producer] = {}
        self._sent: dict[str, int] = {}  # the highest sequence id of each topic that this owner has used
        self._outages = 0
        self._stopping = False
        self.is_troubled = False
        """An outage has stopped it, and there was no turn since."""

    def stop(self) -> None:
        """Ends `run` after the flight in the air."""
        self._stopping = True

    async def run(self) -> None:
        """Until `stop`. Outages are waited out. Raises LeaseLost, after which this owner must not touch the lane."""
        try:
            while not self._stopping:
                try:
                    await self._recover()
                    await self._carry()
                except (DatabaseUnavailable, BusUnavailable) as outage:
                    await self._wait_out(outage)
        finally:
            await self._disconnect()

    async def land(self) -> None:
        """Ends what was begun, and begins nothing. Raises LeaseLost, DatabaseUnavailable, BusUnavailable."""
        try:
            await self._recover()
        except NoPartition:
            # The lanes change, perhaps for this very reason: what cannot land here goes by another one.
            flights = await self._store.open_flights(self._lease)
            await self._turn(Turn(withdrawn=flights))
            self._give_up(flights)
        finally:
            await self._disconnect()

    async def drain(self) -> None:
        """Until nothing is left that may go now. Raises LeaseLost, DatabaseUnavailable, BusUnavailable."""
        try:
            await self._recover()
            await self._carry(until_empty=True)
        finally:
            await self._disconnect()

    async def _recover(self) -> None:
        """Ends what an earlier owner, or we before an outage, have begun."""
        flights = await self._answered(self._store.open_flights(self._lease))
        if flights:
            # Before the next turn comes the broker. Else that turn will tell: who may not write may read this.
            self._observer.database_answered(self._lease.lane)
        for number, flight in enumerate(flights):
            await self._open(flight.topic)
            self._reserve(flight)
            is_closed = isinstance(self._producers[flight.topic], _Unusable)
            due = await self._send(flight)
            if due.reverses:
                if is_closed:
                    self._give_up(flights[number:])
                await self._turn(due.withdrawing(*flights[number + 1 :]))
                return
            await self._turn(due)

    def _give_up(self, flights: Sequence[Flight]) -> None:
        """They may be stored, since the next flight is sent while the one before it is settled; nobody can tell."""
        for flight in flights:
            self._observer.given_up(flight)

    async def _carry(self, *, until_empty: bool = False) -> None:
        due, flight, more, pause = Turn(), None, False, 0.0
        while not self._stopping:
            self._observer.turned()
            self._reserve(flight)
            limit = self._cut.limit if more or flight is None else 0
            if limit or due != Turn():
                turn = replace(due, limit=limit, floors=self._floors(), rest=self._polling.next_pause(pause))
                due, turned = await _side_by_side(self._send(flight), self._turn(turn))
            else:
                due, turned = await self._send(flight), Turned()
            if due.reverses:
                # What was claimed meanwhile may hold later rows of an aggregate that has to wait now.
                due, flight = due.withdrawing(turned.flight), None
            else:
                flight, more = turned.flight, turned.more
            if turned.topic is not None:
                await self._open(turned.topic)
            if flight or turned.topic is not None or due != Turn():
                pause = 0.0
            elif until_empty:
                return
            else:
                pause = self._polling.next_pause(pause)
                await self._rest(pause)
        if (last := due.withdrawing(flight)) != Turn():
            await self._turn(last)

    async def _turn(self, turn: Turn) -> Turned:
        """One transaction; tells the observer what is settled by it."""
        turned = await self._answered(self._store.turn(self._lease, turn))
        self.is_troubled = False
        self._observer.database_answered(self._lease.lane)
        sent = len(turn.settled.events) - len(turn.refused) if turn.settled else 0
        if sent or turned.retried or turned.failed:
            self._observer.settled(sent=sent, retried=turned.retried, failed=turned.failed)
        return turned

    async def _answered(self, asked: Awaitable[Answer]) -> Answer:
        """The answer of the database; the observer is told when there is none."""
        try:
            return await asked
        except DatabaseUnavailable as error:
            self._observer.database_failed(error, self._lease.lane)
            raise

    async def _send(self, flight: Flight | None) -> Turn:
        """Publishes; returns what is to be written down of it."""
        if flight is None:
            return Turn()
        try:
            stored = await self._producers[flight.topic].publish(flight)
        except BusUnavailable as error:
            self._observer.broker_failed(error, self._lease.lane)
            raise
        except EventsRefused as error:
            if isinstance(self._producers[flight.topic], _Unusable):
                del self._producers[flight.topic]  # tried anew by the next rows that choose it
            # What may have been an outage is the fault of these rows from now on.
            self._observer.broker_answered(self._lease.lane)
            self._cut.found()
            return _refused(flight, error.refused)
        except FlightRefused as error:
            if len(flight.events) > 1:
                self._cut.halve(len(flight.events))
                return Turn(withdrawn=[flight])
            self._cut.found()
            return _refused(flight, {flight.ids[0]: error.refusal})
        self._observer.broker_answered(self._lease.lane)
        if not stored and not flight.recovered:
            # Nobody can have sent it before: the counter of the database is behind, as after a restored backup, and
            # the broker took new events for old ones. Under ids above its counter they are new.
            self._observer.counter_behind(flight.topic)
            await self._disconnect()
            return Turn(withdrawn=[flight])
        self._cut.passed(len(flight.events))
        self._outages = 0
        return Turn(settled=flight)

    def _reserve(self, flight: Flight | None) -> None:
        """The ids of a flight that is about to be sent: no later flight may have them, whatever the database says."""
        if flight:
            self._sent[flight.topic] = max(self._sent.get(flight.topic, 0), flight.last_sequence)

    def _floors(self) -> dict[str, int]:
        return {
            topic: max(producer.last_sequence, self._sent.get(topic, 0)) + 1
            for topic, producer in self._producers.items()
        }

    async def _open(self, topic: str) -> None:
        if topic in self._producers:
            return
        if len(self._producers) >= MOST_PRODUCERS:
            await self._disconnect()  # nothing is in the air here, and what is opened again says where to go on
        try:
            self._producers[topic] = await self._publisher.open(topic)
        except BusUnavailable as error:
            self._observer.broker_failed(error, self._lease.lane)
            raise
        except FlightRefused as error:
            self._producers[topic] = _Unusable(error.refusal)

    async def _disconnect(self) -> None:
        self._producers.clear()
        await self._publisher.close()

    async def _wait_out(self, outage: DatabaseUnavailable | BusUnavailable) -> None:
        self.is_troubled = True
        self._outages += 1
        pause = OUTAGE.wait(self._outages)
        log.warning(
            "outage", lane=self._lease.lane, reason=outage.reason, cause=str(outage), retry_in_seconds=round(pause, 1)
        )
        await self._disconnect()
        if not self._stopping:
            await self._rest(pause)


class _Cut:
    """How many rows a flight may have: all, but while a bad one is looked for."""

    def __init__(self, most: int) -> None:
        self.limit = most
        self._most = most
        self._suspects = 0

    def halve(self, events: int) -> None:
        """So many rows hold a bad one."""
        self.limit, self._suspects = max(1, events // 2), events

    def passed(self, events: int) -> None:
        """So many rows were good."""
        self._suspects -= events
        if self._suspects <= 0:
            self.found()

    def found(self) -> None:
        """The bad one is known."""
        self.limit, self._suspects = self._most, 0


class _Unusable:
    """Stands for a producer of a topic that cannot be used: the rows that chose it are refused."""

    last_sequence = 0

    def __init__(self, refusal: Refusal) -> None:
        self._refusal = refusal

    async def publish(self, flight: Flight) -> bool:
        raise EventsRefused(dict.fromkeys(flight.ids, self._refusal))


def _refused(flight: Flight, refused: Mapping[UUID, Refusal]) -> Turn:
    for event_id, refusal in refused.items():
        log.warning("event refused", event_id=str(event_id), reason=refusal.reason, permanent=refusal.permanent)
    return Turn(settled=flight, refused=refused)


async def _side_by_side(
    publishing: Coroutine[Any, Any, Turn], turning: Coroutine[Any, Any, Turned]
) -> tuple[Turn, Turned]:
    """Both to their ends, then what one of them raises; LeaseLost before anything else, since it ends the lane."""
    sent, turned = await asyncio.gather(publishing, turning, return_exceptions=True)
    failed = [outcome for outcome in (sent, turned) if isinstance(outcome, BaseException)]
    for error in sorted(failed, key=lambda error: not isinstance(error, LeaseLost)):
        raise error
    assert isinstance(sent, Turn)
    assert isinstance(turned, Turned)
    return sent, turned
