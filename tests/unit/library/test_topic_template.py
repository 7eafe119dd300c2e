"""Which templates and service URLs a Pulsar bus takes, and what a message carries beside its payload."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from bento_outbox import MisuseError
from bento_outbox.pulsar_bus import (
    DEFAULT_TOPIC,
    PulsarMessageBus,
    check_service_url,
    check_topic_template,
    message_properties,
)
from tests.support.envelopes import envelope


@pytest.mark.parametrize(
    "template", [DEFAULT_TOPIC, "persistent://public/default/all", "persistent://{tenant}/default/{type}"]
)
def test_a_template_may_hold_tenant_and_type(template: str) -> None:
    assert check_topic_template(template) == template


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("persistent://public/default/{customer}", r"unknown placeholder \{customer\}: use \{tenant\} or \{type\}"),
        ("persistent://public/default/{}", r"unknown placeholder \{\}"),
        ("persistent://public/default/{tenant.__class__}", r"unknown placeholder \{tenant.__class__\}"),
        ("persistent://public/default/{tenant", "is not a template"),
        ("persistent://public/default/{tenant:>20}", r"write \{tenant\} alone"),
        ("persistent://public/default/{type!r}", r"write \{type\} alone"),
    ],
)
def test_anything_else_is_refused_at_once(template: str, complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        PulsarMessageBus("pulsar://broker:6650", topic=template)


@pytest.mark.parametrize(
    "url",
    [
        "pulsar://broker:6650",
        "pulsar+ssl://broker:6651",
        "pulsar://broker",
        "pulsar://one:6650,two:6650",
        "pulsar://[::1]:6650",
    ],
)
def test_service_urls_that_the_client_takes(url: str) -> None:
    assert check_service_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker:6650",
        "http://broker:8080",
        "pulsar://",
        "pulsar://broker:port",
        "pulsar://broker:99999",
        "pulsar://a b",
    ],
)
def test_service_urls_that_it_does_not_take_are_refused_at_once(url: str) -> None:
    with pytest.raises(MisuseError, match=r"pulsar://host:6650 or pulsar\+ssl://host:6651"):
        PulsarMessageBus(url)


def test_a_message_carries_what_delivery_knows() -> None:
    event = envelope(
        id=UUID(int=1),
        schema_id="schemas/placed",
        schema_ver=2,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        headers={"traceparent": "00-1-2-01"},
    )

    assert message_properties(event) == {
        "event_id": "00000000-0000-0000-0000-000000000001",
        "type": "orders.Placed",
        "tenant_id": "acme",
        "schema_id": "schemas/placed",
        "schema_ver": "2",
        "created_at": "2026-01-02T03:04:05+00:00",
        "traceparent": "00-1-2-01",
    }


def test_what_is_not_known_is_left_out() -> None:
    assert message_properties(envelope()).keys() == {"event_id", "type", "tenant_id"}


def test_no_header_can_pretend_to_be_another_event() -> None:
    event = envelope(headers={"event_id": "another", "tenant_id": "another"})

    properties = message_properties(event)

    assert (properties["event_id"], properties["tenant_id"]) == (str(event.id), "acme")
