"""What a lane does in the cases that random schedules meet seldom, or cannot judge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bento_outbox import BusUnavailable, Envelope, Refusal
from outbox_projector.flights import Flight, FlightRefused, Lease, Producer, Turn, Turned
from outbox_projector.lane import Lane
from outbox_projector.policies import Polling
from tests.support.envelopes import envelope
from tests.unit.projector.protocol_model import Broker, Database, Observed, Row


class Store:
    """The model's database, without troubles."""

    def __init__(self, *events: Envelope) -> None:
        self.database = Database([Row(event) for event in events])
        self.database.beat("we", 1)
        self.lease = self.database.acquire("we", 0) or Lease(lane=0, epoch=0)
        self.turns: list[Turn] = []
        self.all_done = asyncio.Event()

    @property
    def statuses(self) -> list[str]:
        return [row.status for row in self.database.rows]

    async def open_flights(self, lease: Lease) -> list[Flight]:
        return self.database.open_flights(lease)

    async def turn(self, lease: Lease, turn: Turn) -> Turned:
        self.turns.append(turn)
        turned = self.database.turn(lease, turn)
        if "NEW" not in self.statuses:
            self.all_done.set()
        return turned


class Publisher:
    """The model's broker, without troubles but those a test makes."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.unusable: dict[str, Refusal] = {}
        self.away: BusUnavailable | None = None
        """Raised once."""
        self.flights: list[int] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.most_open = self._open = 0

    async def open(self, topic: str) -> Producer:
        if away := self.away:
            self.away = None
            raise away
        if topic in self.unusable:
            raise FlightRefused(self.unusable[topic])
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        return Connection(self, self.broker.open((topic, 0), "we"))

    async def close(self) -> None:
        self._open = 0


class Connection:
    def __init__(self, publisher: Publisher, last_sequence: int) -> None:
        self.last_sequence = last_sequence
        self._publisher = publisher

    async def publish(self, flight: Flight) -> bool:
        self._publisher.flights.append(len(flight.events))
        self._publisher.meanwhile()
        return self._publisher.broker.publish((flight.topic, 0), "we", flight)


@asynccontextmanager
async def running(store: Store, publisher: Publisher, *, batch_size: int = 100) -> AsyncIterator[Observed]:
    """A lane that has run until nothing was left to do; stopped at the end of the block."""
    observed, idle = Observed(), asyncio.Event()

    async def rest(_: float) -> None:
        idle.set()
        await asyncio.sleep(0)

    lane = Lane(
        lease=store.lease,
        store=store,
        publisher=publisher,
        batch_size=batch_size,
        polling=Polling(),
        observer=observed,
        rest=rest,
    )
    async with asyncio.timeout(10):
        task = asyncio.create_task(lane.run())
        await idle.wait()
        yield observed
        lane.stop()
        await task


def _bad_broker(*bad: Envelope) -> Broker:
    return Broker(bad={event.id for event in bad})


async def test_a_broker_that_takes_new_events_for_old_ones_loses_none() -> None:
    """Its counter is above ours after we have read it: somebody else published under our name."""
    store, publisher = Store(envelope()), Publisher(Broker())
    async with running(store, publisher) as observed:
        publisher.broker.highest["topic", 0] = 50
        new = [envelope() for _ in range(3)]
        store.database.rows += [Row(event) for event in new]
        store.all_done.clear()
        await store.all_done.wait()

    assert publisher.broker.topics["topic"][1:] == [event.id for event in new]
    assert observed.behind == 1


async def test_one_bad_event_costs_only_itself_and_few_flights() -> None:
    events = [envelope(aggregate_id=f"a-{number}") for number in range(100)]
    bad = events[67]
    store, publisher = Store(*events), Publisher(_bad_broker(bad))
    async with running(store, publisher):
        await store.all_done.wait()

    assert publisher.broker.topics["topic"] == [event.id for event in events if event is not bad]
    assert store.statuses.count("ERR") == 1
    assert len(publisher.flights) < 25


async def test_events_of_a_topic_that_cannot_be_used_are_refused_and_the_others_go_on() -> None:
    good, lost = envelope(), envelope(topic="nowhere")
    store, publisher = Store(lost, good), Publisher(Broker())
    publisher.unusable["nowhere"] = Refusal("no such place", permanent=True)
    async with running(store, publisher):
        await store.all_done.wait()

    assert store.statuses == ["ERR", "SENT"]
    assert publisher.broker.topics == {"topic": [good.id]}


async def test_a_chosen_topic_that_closes_under_a_flight_holds_nobody_up_and_what_may_be_doubled_is_told() -> None:
    good, lost = envelope(), envelope(topic="chosen")
    store, publisher = Store(lost, good), Publisher(Broker())

    def close() -> None:
        publisher.meanwhile = lambda: None
        publisher.unusable["chosen"] = Refusal("over its quota")
        publisher.broker.stored["chosen", 0].append(lost.id)
        raise BusUnavailable("over its quota")

    publisher.meanwhile = close
    async with running(store, publisher) as observed:
        await store.all_done.wait()

    assert store.statuses == ["ERR", "SENT"]
    assert observed.perhaps_doubled == [lost.id]


async def test_of_flights_behind_one_whose_topic_is_closed_nobody_knows_either_whether_they_were_sent() -> None:
    """The next flight is sent while the one before it is settled."""
    lost, behind = envelope(aggregate_id="a", topic="chosen"), envelope(aggregate_id="b")
    store, publisher = Store(lost, behind), Publisher(Broker())
    for topic in ("chosen", "topic"):
        store.database.turn(store.lease, Turn(limit=1, floors={topic: 1}))
    publisher.unusable["chosen"] = Refusal("over its quota", permanent=True)
    async with running(store, publisher) as observed:
        await store.all_done.wait()

    assert store.statuses == ["ERR", "SENT"]
    assert observed.perhaps_doubled == [lost.id, behind.id]


async def test_a_refusal_is_an_answer_after_an_outage() -> None:
    """Where nothing else is to be sent, the broker would be called unreachable from then on."""
    store, publisher = Store(envelope(topic="chosen")), Publisher(Broker())
    publisher.unusable["chosen"] = Refusal("over its quota", permanent=True)
    publisher.away = BusUnavailable("away")
    async with running(store, publisher) as observed:
        await store.all_done.wait()

    assert store.statuses == ["ERR"]
    assert observed.broker_heard == [False, True]


async def test_a_topic_that_opens_again_after_an_outage_gets_the_flight_under_its_ids() -> None:
    event = envelope(topic="chosen")
    store, publisher = Store(event), Publisher(Broker())

    def store_unheard() -> None:
        publisher.meanwhile = lambda: None
        publisher.broker.store(("chosen", 0), store.database.flights[0][0])
        raise BusUnavailable("over its quota")

    publisher.meanwhile = store_unheard
    async with running(store, publisher) as observed:
        await store.all_done.wait()

    assert (store.statuses, publisher.broker.topics) == (["SENT"], {"chosen": [event.id]})
    assert observed.perhaps_doubled == []


async def test_settling_and_the_next_claim_are_one_transaction() -> None:
    store, publisher = Store(*(envelope(aggregate_id=f"a-{number}") for number in range(30))), Publisher(Broker())
    async with running(store, publisher, batch_size=10):
        pass

    assert publisher.flights == [10, 10, 10]
    # The third flight takes the last rows: while it is published, nothing is claimed.
    assert [turn.limit for turn in store.turns if turn.settled] == [10, 0, 10]


async def test_while_a_flight_that_took_all_is_published_nothing_is_claimed_since_more_may_come() -> None:
    events = [envelope(aggregate_id=f"a-{number}") for number in range(3)]
    store, publisher = Store(*events), Publisher(Broker())
    late = Row(envelope())

    def comes_late() -> None:
        store.database.rows.append(late)
        publisher.meanwhile = lambda: None

    publisher.meanwhile = comes_late
    async with running(store, publisher):
        pass

    assert publisher.flights == [3, 1]
    # Each is settled by the turn that claims what has come meanwhile.
    assert [(len(turn.settled.events), turn.limit) for turn in store.turns if turn.settled] == [(3, 100), (1, 100)]


async def test_of_topics_without_number_only_so_many_are_open_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that is opened again goes on above what the broker has of it."""
    monkeypatch.setattr("outbox_projector.lane.MOST_PRODUCERS", 2)
    events = [envelope(topic=f"topic-{number % 5}") for number in range(20)]
    store, publisher = Store(*events), Publisher(Broker())
    async with running(store, publisher, batch_size=1) as observed:
        await store.all_done.wait()

    for topic, ids in publisher.broker.topics.items():
        assert ids == [event.id for event in events if event.topic == topic]
    assert len(publisher.broker.log) == 20
    assert publisher.most_open == 2
    assert observed.behind == 0


async def test_a_lane_that_is_stopped_leaves_no_flight_behind() -> None:
    store, publisher = Store(*(envelope() for _ in range(3))), Publisher(Broker())
    async with running(store, publisher, batch_size=1):
        store.database.rows += [Row(envelope()) for _ in range(10)]

    assert store.database.flying == []
    sent = [row.event.id for row in store.database.rows if row.status == "SENT"]
    assert publisher.broker.topics["topic"] == sent
