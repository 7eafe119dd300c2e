"""The CloudEvents 1.0 mapping. The expectations are read from the specification, not from our code."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from uuid import UUID

import pytest

from bento_outbox import MisuseError
from bento_outbox.cloudevents import check_source, cloudevents_properties
from tests.support.envelopes import envelope

FULL = envelope(
    id=UUID(int=7),
    tenant_id="acme",
    aggregate_id="order-1",
    type="orders.Placed",
    schema_id="orders/placed",
    schema_ver=3,
    headers={
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "correlation_id": "conversation-1",
        "causation_id": "message-1",
        "requeued_at": "2026-01-03T00:00:00+00:00",
        "locale": "de",
    },
    created_at=datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
)


def test_all_attributes() -> None:
    assert cloudevents_properties(FULL, source="/shops/acme") == {
        "ce_specversion": "1.0",
        "ce_id": "00000000-0000-0000-0000-000000000007",
        "ce_source": "/shops/acme",
        "ce_type": "orders.Placed",
        "ce_subject": "order-1",
        "ce_time": "2026-01-02T03:04:05.678000+00:00",
        "ce_dataschema": "urn:schema:orders/placed:3",
        "ce_partitionkey": "order-1",
        "ce_traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "ce_tracestate": "vendor=1",
        "ce_correlationid": "conversation-1",
        "ce_causationid": "message-1",
        "ce_requeuedat": "2026-01-03T00:00:00+00:00",
        "ce_tenantid": "acme",
        "content-type": "application/json",
    }


def test_an_event_with_nothing_but_the_bare_columns() -> None:
    assert cloudevents_properties(envelope(id=UUID(int=7)), source="/shops") == {
        "ce_specversion": "1.0",
        "ce_id": "00000000-0000-0000-0000-000000000007",
        "ce_source": "/shops",
        "ce_type": "orders.Placed",
        "ce_subject": "order-1",
        "ce_partitionkey": "order-1",
        "ce_tenantid": "acme",
        "content-type": "application/json",
    }


def test_the_ordering_key_is_the_key_of_the_partition() -> None:
    properties = cloudevents_properties(envelope(ordering_key="queue-1"), source="/shops")

    assert (properties["ce_partitionkey"], properties["ce_subject"]) == ("queue-1", "order-1")


def test_a_schema_without_a_version() -> None:
    properties = cloudevents_properties(envelope(schema_id="orders/placed"), source="/shops")

    assert properties["ce_dataschema"] == "urn:schema:orders/placed"


def test_the_name_of_a_schema_may_be_any_text() -> None:
    properties = cloudevents_properties(envelope(schema_id="order placed/ä"), source="/shops")

    assert properties["ce_dataschema"] == "urn:schema:order%20placed/%C3%A4"


@pytest.mark.parametrize("source", ["/tenants/{tenant}", "https://shop.example/{tenant}?a=%20b#c", "urn:shop", "shop"])
def test_a_source_is_a_uri_reference(source: str) -> None:
    assert check_source(source) == source


@pytest.mark.parametrize("source", ["", "a b", "/shops/{type}", "/shops/{tenant", "/shops/{tenant!r}", "/shöp", "%zz"])
def test_what_is_no_uri_reference_is_refused(source: str) -> None:
    with pytest.raises(MisuseError, match="write one such as /tenants/"):
        check_source(source)


def test_names_of_attributes_are_lower_case_letters_and_digits() -> None:
    names = [name for name in cloudevents_properties(FULL, source="/") if name != "content-type"]

    assert all(re.fullmatch("ce_[a-z0-9]{1,20}", name) for name in names)
