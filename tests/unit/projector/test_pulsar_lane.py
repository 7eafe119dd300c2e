"""What a lane's producer makes of answers that the real broker gives only now and then, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from bento_outbox import BusUnavailable, EventsRefused
from outbox_projector.flights import Flight, FlightRefused, LeaseLost
from outbox_projector.pulsar_lane import PulsarLaneProducer, PulsarLanePublisher
from tests.support.envelopes import envelope

TOPIC = "persistent://public/default/events"
STORED, DUPLICATE = 7, -1


class Broker:
    """Stands for the client's producer: answers as told, by key; what is not told of is stored."""

    def __init__(self, last_sequence: int = -1) -> None:
        self.answers: Mapping[str, tuple[str, int]] = {}
        self.sent = 0
        self._last_sequence = last_sequence

    def last_sequence_id(self) -> int:
        return self._last_sequence

    @property
    def _producer(self) -> Broker:
        return self

    def send_async(self, message: Any, callback: Any) -> None:
        self.sent += 1
        if callback is not None:
            name, ledger = self.answers.get(message.partition_key(), ("Ok", STORED))
            callback(SimpleNamespace(name=name), SimpleNamespace(ledger_id=lambda: ledger))

    def flush(self) -> None:
        pass


def producer_on(broker: Any, configured_topic: str | None = TOPIC) -> PulsarLaneProducer:
    publisher = PulsarLanePublisher("pulsar://broker:6650", producer_name="lane", configured_topic=configured_topic)
    return PulsarLaneProducer(broker, TOPIC, 10, publisher._unsure, by_key=True, reopen=lambda former, _: former)


def flight(keys: str, first_sequence: int = 1, *, recovered: bool = False, payload: bytes = b"{}") -> Flight:
    events = [envelope(aggregate_id=key, payload=payload) for key in keys]
    return Flight(
        topic=TOPIC, first_sequence=first_sequence, events=events, retry_counts={}, by_key=True, recovered=recovered
    )


async def test_an_entry_that_is_refused_leaves_the_others_stored() -> None:
    broker = Broker()
    broker.answers = {"b": ("MessageTooBig", DUPLICATE)}

    with pytest.raises(EventsRefused) as raised:
        await producer_on(broker).publish(sent := flight("abc"))

    assert raised.value.refused.keys() == {sent.ids[1]}
    assert raised.value.refused[sent.ids[1]].permanent


async def test_events_that_shared_a_refused_entry_get_another_chance_in_smaller_flights() -> None:
    """Each may be small enough alone: only together they were above a limit that the broker has set low."""
    broker = Broker()
    broker.answers = {"b": ("MessageTooBig", DUPLICATE)}
    producer = producer_on(broker)
    with pytest.raises(EventsRefused) as raised:
        await producer.publish(sent := flight("abcb"))
    assert raised.value.refused.keys() == {sent.ids[1], sent.ids[3]}
    assert not any(refusal.permanent for refusal in raised.value.refused.values())
    already_sent = broker.sent

    with pytest.raises(FlightRefused):
        await producer.publish(flight("abcb", 5))
    assert broker.sent == already_sent

    broker.answers = {}
    assert await producer.publish(flight("b", 9))


async def test_a_smaller_limit_does_not_refuse_a_flight_that_may_be_stored_already() -> None:
    broker = Broker()
    broker.answers = {"b": ("MessageTooBig", DUPLICATE)}
    producer = producer_on(broker)
    with pytest.raises(EventsRefused):
        await producer.publish(flight("abcb"))

    with pytest.raises(EventsRefused):
        await producer.publish(flight("abcb", recovered=True))


async def test_a_flight_of_which_every_entry_is_refused_is_cut_by_the_lane() -> None:
    broker = Broker()
    broker.answers = {"a": ("UnknownResult", DUPLICATE), "b": ("UnknownResult", DUPLICATE)}

    with pytest.raises(FlightRefused, match="the broker answered UnknownResult"):
        await producer_on(broker).publish(flight("ab"))


CLOSED = ["AuthorizationError", "ProducerBlockedQuotaExceededException", "TopicNotFound", "TopicTerminated"]


@pytest.mark.parametrize("result", ["Timeout", "ProducerBusy", "UnknownError", *CLOSED])
@pytest.mark.parametrize("configured_topic", [TOPIC, "another"])
async def test_an_entry_that_may_or_may_not_be_stored_is_an_outage_of_the_flight(
    result: str, configured_topic: str
) -> None:
    """Also where rows chose the topic: what was stored before a broken connection may get such an answer."""
    broker = Broker()
    broker.answers = {"a": ("MessageTooBig", DUPLICATE), "b": (result, DUPLICATE)}

    with pytest.raises(BusUnavailable, match=result if result != "TopicNotFound" else "has no topic"):
        await producer_on(broker, configured_topic).publish(flight("abc"))


@pytest.mark.parametrize("result", CLOSED)
async def test_a_topic_that_a_row_chose_and_that_cannot_be_opened_stops_no_other(result: str) -> None:
    def trouble(configured_topic: str) -> Exception:
        publisher = PulsarLanePublisher("pulsar://broker:6650", producer_name="lane", configured_topic=configured_topic)
        return publisher._trouble(result, TOPIC)

    assert isinstance(trouble(TOPIC), BusUnavailable)
    assert isinstance(trouble("another"), FlightRefused)


@pytest.mark.parametrize(("producer_name", "meant"), [("lane", BusUnavailable), (None, FlightRefused)])
def test_a_topic_that_a_row_chose_and_that_is_busy(producer_name: str | None, meant: type[Exception]) -> None:
    """By a former connection of our own, which passes; or, where we share it, by somebody who keeps it for himself."""
    publisher = PulsarLanePublisher("pulsar://broker:6650", producer_name=producer_name, configured_topic="another")

    assert isinstance(publisher._trouble("ProducerBusy", TOPIC), meant)


async def test_a_lane_that_is_lost_is_told_before_anything_else() -> None:
    broker = Broker()
    broker.answers = {"a": ("Timeout", DUPLICATE), "b": ("ProducerFenced", DUPLICATE)}

    with pytest.raises(LeaseLost):
        await producer_on(broker).publish(flight("ab"))


@pytest.mark.parametrize(
    ("first_sequence", "brokers_last", "stored"),
    [(11, 10, True), (10, 10, False), (1, 10, False), (9, 10, False)],
)
async def test_an_entry_that_the_broker_has_is_ours_only_if_nobody_had_used_its_id(
    first_sequence: int, brokers_last: int, stored: bool
) -> None:
    broker = Broker(brokers_last)
    broker.answers = {"a": ("Ok", DUPLICATE)}

    assert await producer_on(broker).publish(flight("ab", first_sequence)) is stored


async def test_new_events_under_old_ids_are_an_alarm_even_beside_a_refusal() -> None:
    """Were the refusal told, the lane would take the others for stored, and lose them."""
    broker = Broker(10)
    broker.answers = {"a": ("Ok", DUPLICATE), "b": ("MessageTooBig", DUPLICATE)}

    assert await producer_on(broker).publish(flight("abc", 5)) is False
    with pytest.raises(EventsRefused):
        await producer_on(broker).publish(flight("abc", 5, recovered=True))
