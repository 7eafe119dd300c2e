"""What of an event travels where."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis.strategies import datetimes, just

from bento_outbox.cloudevents import cloudevents_properties
from bento_outbox.headers import COLUMNS
from bento_outbox.message_form import message_of
from tests.support.envelopes import envelope

PAGE = Path(__file__).parents[3] / "docs" / "message-form.md"
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
FULL = envelope(
    id=UUID("0b54c9a1-6d0f-4c6e-9d0a-3f2f6c1f7a10"),
    aggregate_id="order-17",
    type="orders.OrderPaid",
    payload=b'{"total_cents": 1200, "aggregate_id": "order-17"}',
    schema_id="orders/order-paid",
    schema_ver=2,
    headers={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "locale": "de"},
    created_at=AT,
)


def test_a_message_is_what_the_documentation_shows() -> None:
    shown = json.loads(re.findall("```json\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])
    message = message_of(FULL)

    assert shown == {
        "key": message.key,
        "event_time": message.event_time,
        "properties": message.properties,
        "payload": json.loads(message.payload),
    }


def test_the_payload_is_not_touched() -> None:
    payload = b'{"b" : 1,  "a":1e400, "\xc3\xa9": "\\u00e9"}'

    assert message_of(envelope(payload=payload)).payload is payload


def test_the_ordering_key_is_the_key_when_there_is_one() -> None:
    message = message_of(envelope(ordering_key="customer-7"))

    assert (message.key, message.properties["aggregate_id"]) == ("customer-7", "order-1")
    # An empty one, which only a writer of plain SQL can give, is one for the database, too.
    assert message_of(envelope(ordering_key="")).key == ""


def test_what_is_not_known_is_left_out() -> None:
    message = message_of(envelope())

    assert message.properties.keys() == {"event_id", "type", "tenant_id", "aggregate_id"}
    assert message.event_time is None


def test_no_header_bears_the_name_of_a_column_even_if_the_column_is_empty() -> None:
    forged = envelope(headers=dict.fromkeys(COLUMNS, "forged") | {"locale": "de"})
    properties = message_of(forged).properties

    assert "forged" not in properties.values()
    assert properties == message_of(envelope(id=forged.id)).properties | {"locale": "de"}


@pytest.mark.parametrize(
    ("created_at", "told", "event_time"),
    [
        (AT, "2026-01-02T03:04:05.678901+00:00", 1767323045678),
        (AT.astimezone(timezone(timedelta(hours=5))), "2026-01-02T03:04:05.678901+00:00", 1767323045678),
        (datetime(1969, 7, 20, tzinfo=UTC), "1969-07-20T00:00:00+00:00", None),
        # How the driver reads `infinity`.
        (datetime.max, "9999-12-31T23:59:59.999999+00:00", 253402300799999),
        (datetime.min, "0001-01-01T00:00:00+00:00", None),
    ],
)
def test_the_time_of_the_event(created_at: datetime, told: str, event_time: int | None) -> None:
    message = message_of(envelope(created_at=created_at))

    assert (message.properties["created_at"], message.event_time) == (told, event_time)


@given(datetimes(timezones=just(UTC)))
def test_the_time_is_written_as_isoformat_writes_it(created_at: datetime) -> None:
    assert message_of(envelope(created_at=created_at)).properties["created_at"] == created_at.isoformat()


def test_a_cloudevent_has_its_attributes_beside_the_usual_properties() -> None:
    event = envelope(
        tenant_id="acme/eu west", headers={"locale": "de", "ce_id": "forged", "content-type": "text/plain"}
    )

    properties = message_of(event, cloudevents_source="/shops/{tenant}").properties

    ours = cloudevents_properties(event, source="/shops/acme%2Feu%20west")
    assert properties == message_of(event).properties | ours
    assert (properties["ce_id"], properties["content-type"], properties["locale"]) == (
        properties["event_id"],
        "application/json",
        "de",
    )


def test_its_size_is_that_of_its_bytes() -> None:
    small, large = message_of(envelope()), message_of(envelope(headers={"käse": "🎉"}))

    assert large.size - small.size == len("käse".encode()) + 4


def test_a_text_that_has_no_bytes_is_found_by_its_size() -> None:
    message = message_of(envelope(headers={"note": "\ud800"}))

    with pytest.raises(UnicodeEncodeError):
        _ = message.size
