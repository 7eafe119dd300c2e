"""What the process knows about itself."""

from __future__ import annotations

from typing import Any

import pytest

from bento_outbox import BusUnavailable
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Flight
from outbox_projector.health import BROKER_SILENT_SECONDS, STUCK_AFTER_SECONDS, Health
from outbox_projector.metrics import Metrics
from outbox_projector.store import COUNT_LIMIT, Backlog
from tests.support.envelopes import envelope

NO_TABLE = DatabaseUnavailable("no table", reason="OutboxTableMissing")
NO_DATABASE = DatabaseUnavailable("no database", reason="DatabaseUnreachable")
NO_NAMESPACE = BusUnavailable("no namespace", reason="PulsarNamespaceNotFound")


def _states(health: Health) -> list[tuple[str, str]]:
    return [(condition.status, condition.reason) for condition in health.conditions]


def test_at_first_nothing_is_known(health: Health) -> None:
    assert _states(health) == [("Unknown", "NotTried")] * 3
    assert not health.knows_its_state


def test_both_connections_answered(health: Health) -> None:
    health.database_answered()
    assert not health.knows_its_state
    health.broker_answered()

    assert _states(health)[:2] == [("True", "Connected")] * 2
    assert health.knows_its_state


def test_a_failed_connection_is_a_known_state_with_reason_and_message(health: Health) -> None:
    health.database_answered()
    health.broker_failed(NO_NAMESPACE)

    assert _states(health)[:2] == [("True", "Connected"), ("False", "PulsarNamespaceNotFound")]
    assert health.broker.message == "no namespace"
    assert health.knows_its_state


def test_while_the_database_cannot_be_reached_nothing_is_claimed_about_the_broker(health: Health) -> None:
    health.broker_answered()
    health.database_failed(NO_TABLE)

    assert _states(health)[:2] == [("False", "OutboxTableMissing"), ("Unknown", "NotTried")]
    assert health.knows_its_state


def test_a_lane_that_may_not_write_is_not_hidden_by_looks_and_lanes_that_get_an_answer(health: Health) -> None:
    health.database_failed(NO_TABLE, 2)
    for lane in (None, 0):
        health.database_answered(lane)
    assert (health.database.status, health.database.message) == ("False", "no table")

    health.database_answered(2)
    assert health.database.status == "True"


def test_of_several_troubles_with_the_database_the_one_that_lasts_longest_is_told(health: Health) -> None:
    health.database_failed(NO_TABLE, 2)
    health.database_failed(NO_DATABASE)
    assert health.database.reason == "OutboxTableMissing"

    health.database_answered(2)
    assert (health.database.status, health.database.reason) == ("False", "DatabaseUnreachable")


def test_what_the_database_refused_to_a_lane_that_has_ended_is_told_until_the_next_look(health: Health) -> None:
    health.database_failed(NO_TABLE, 2)
    health.lane_ended(2)
    assert health.database.status == "False"

    health.database_answered()
    assert health.database.status == "True"


def test_a_lane_that_goes_on_publishing_tells_of_the_broker_whatever_another_one_lacks(health: Health) -> None:
    health.database_failed(NO_TABLE, 2)
    health.broker_answered(0)
    health.database_failed(NO_TABLE, 2)

    assert _states(health)[:2] == [("False", "OutboxTableMissing"), ("True", "Connected")]


def test_one_lane_that_stands_still_is_not_hidden_by_those_that_go_on(health: Health) -> None:
    health.broker_failed(NO_NAMESPACE, 2)
    health.broker_answered(0)
    assert (health.broker.status, health.broker.message) == ("False", "no namespace")

    health.broker_answered(2)
    assert health.broker.status == "True"


def test_a_check_while_nothing_waits_speaks_for_all_lanes(health: Health) -> None:
    health.broker_failed(NO_NAMESPACE, 2)
    health.broker_answered()
    health.broker_answered(0)

    assert health.broker.status == "True"


def test_the_broker_is_silent_when_no_lane_has_tried_it_for_a_while(health: Health, clock: Any) -> None:
    for told in (health.broker_answered, lambda: health.broker_answered(0), lambda: health.broker_failed(NO_NAMESPACE)):
        told()
        clock.advance(BROKER_SILENT_SECONDS - 1)
        assert not health.broker_is_silent
        clock.advance(1)
        assert health.broker_is_silent

    # A lane in trouble tries again, however long each attempt takes.
    health.broker_failed(NO_NAMESPACE, 0)
    clock.advance(BROKER_SILENT_SECONDS)
    assert not health.broker_is_silent


def test_the_trouble_of_a_lane_that_another_process_has_now_is_not_ours(health: Health) -> None:
    health.broker_failed(NO_NAMESPACE, 1)
    health.broker_failed(NO_NAMESPACE, 2)
    health.lane_ended(1)
    assert health.broker.status == "False"

    health.lane_ended(2)
    assert health.broker.status == "Unknown"
    health.broker_answered(0)
    health.lane_ended(0)
    assert health.broker.status == "True"


def test_a_condition_remembers_since_when_it_has_its_status(health: Health, clock: Any) -> None:
    clock.advance(10)
    began = clock()
    health.broker_failed(NO_NAMESPACE)
    clock.advance(10)
    health.broker_failed(BusUnavailable("another cause"))
    assert (health.broker.since, health.broker.reason) == (began, "BrokerUnreachable")

    clock.advance(10)
    health.broker_answered()
    assert health.broker.since == clock()


def test_errors_are_a_condition_of_their_own(health: Health) -> None:
    health.measured(Backlog(pending=5, errors=2, oldest_seconds=1.5))
    assert (health.failing.status, health.failing.reason) == ("True", "EventsInError")
    assert health.failing.message == "2 event(s) in ERR: `bento-outbox errors list` shows why"

    health.measured(Backlog(pending=5, errors=0, oldest_seconds=1.5))
    assert (health.failing.status, health.failing.reason, health.failing.message) == ("False", "NoErrors", "")


def test_the_loop_is_alive_while_it_turns(health: Health, clock: Any) -> None:
    clock.advance(STUCK_AFTER_SECONDS - 1)
    assert health.loop_is_alive
    clock.advance(1)
    assert not health.loop_is_alive

    health.turned()
    assert health.loop_is_alive

    clock.set_back(3600)
    clock.advance(STUCK_AFTER_SECONDS)
    assert not health.loop_is_alive


def test_the_time_of_the_last_publish_is_that_of_the_last_event_that_was_sent(health: Health, clock: Any) -> None:
    health.settled(sent=0, retried=1, failed=1)
    assert health.last_published is None

    health.settled(sent=3, retried=0, failed=0)
    published = clock()
    clock.advance(10)
    health.settled(sent=0, retried=1, failed=0)
    assert (health.last_published, health.sent_total) == (published, 3)


@pytest.mark.parametrize(("pending", "bound"), [(0, False), (COUNT_LIMIT - 1, False), (COUNT_LIMIT, True)])
def test_a_count_at_the_limit_is_a_lower_bound(pending: int, bound: bool) -> None:
    assert Backlog(pending=pending, errors=0, oldest_seconds=0).pending_is_lower_bound == bound


def test_the_metrics_tell_the_same(health: Health, metrics: Metrics) -> None:
    health.database_answered()
    health.broker_answered()
    health.settled(sent=3, retried=2, failed=1)
    health.measured(Backlog(pending=5, errors=1, oldest_seconds=1.5))
    metrics.deleted.inc(7)

    lines = [line for line in metrics.exposition().decode().splitlines() if not line.startswith("#")]

    assert lines == [
        'outbox_events_published_total{tenant="acme"} 3.0',
        'outbox_events_retried_total{tenant="acme"} 2.0',
        'outbox_events_failed_total{tenant="acme"} 1.0',
        'outbox_events_deleted_total{tenant="acme"} 7.0',
        'outbox_events_perhaps_doubled_total{tenant="acme"} 0.0',
        'outbox_pending_events{tenant="acme"} 5.0',
        'outbox_error_events{tenant="acme"} 1.0',
        'outbox_oldest_pending_seconds{tenant="acme"} 1.5',
        'outbox_database_up{tenant="acme"} 1.0',
        'outbox_broker_up{tenant="acme"} 1.0',
        'outbox_listening{tenant="acme"} 0.0',
    ]


def test_a_failed_connection_is_down_in_the_metrics(health: Health, metrics: Metrics) -> None:
    health.database_failed(NO_TABLE)
    health.broker_failed(NO_NAMESPACE)

    exposition = metrics.exposition().decode()

    assert 'outbox_database_up{tenant="acme"} 0.0' in exposition
    assert 'outbox_broker_up{tenant="acme"} 0.0' in exposition


def test_only_where_it_is_promised_a_condition_tells_whether_the_broker_deduplicates(
    health: Health, metrics: Metrics
) -> None:
    health.deduplication_seen("persistent://a/b/c", active=False)

    assert "DeduplicationActive" not in [condition.type for condition in health.conditions]
    assert Health(metrics, exactly_once=True).conditions[-1].type == "DeduplicationActive"


def test_one_topic_without_deduplication_is_told_until_it_has_it(metrics: Metrics) -> None:
    health = Health(metrics, exactly_once=True)
    condition = health.deduplication
    assert condition is not None
    assert (condition.status, condition.reason) == ("Unknown", "NotTried")

    health.deduplication_seen("persistent://shop/good/t", active=True)
    assert (condition.status, condition.reason, condition.message) == ("True", "Deduplicating", "")

    health.deduplication_seen("persistent://shop/bad/t", active=False)
    health.deduplication_seen("persistent://shop/good/t", active=True)
    assert (condition.status, condition.reason) == ("False", "DeduplicationDisabled")
    assert "set-deduplication shop/bad --enable" in condition.message

    health.deduplication_seen("persistent://shop/bad/t", active=True)
    assert condition.status == "True"


def test_events_that_may_be_doubled_are_counted(health: Health, metrics: Metrics) -> None:
    health.deduplication_forgotten("t", perhaps_doubled=0)
    health.deduplication_forgotten("t", perhaps_doubled=7)

    assert 'outbox_events_perhaps_doubled_total{tenant="acme"} 7.0' in metrics.exposition().decode()


@pytest.mark.parametrize(("exactly_once", "counted"), [(True, 2), (False, 0)])
def test_what_an_outage_may_double_is_counted_only_where_it_matters(
    exactly_once: bool, counted: int, metrics: Metrics
) -> None:
    events = [envelope(), envelope()]
    health = Health(metrics, exactly_once=exactly_once)

    health.given_up(Flight(topic="t", first_sequence=1, events=events, retry_counts={}, recovered=True))

    assert f'outbox_events_perhaps_doubled_total{{tenant="acme"}} {counted}.0' in metrics.exposition().decode()
