"""From the payload back to the event, whichever version wrote it and whatever the class is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import attrs
import msgspec
import pydantic
import pytest

from bento_outbox import EventNotEncodable, MisuseError, Outbox, decode, event_type, upcaster

WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal


@event_type("tests.decode.Dataclass")
@dataclass(frozen=True)
class PlacedDataclass:
    aggregate_id: str
    at: datetime
    lines: list[Line]
    event_id: UUID = field(default_factory=uuid4)


@event_type("tests.decode.Attrs")
@attrs.frozen
class PlacedAttrs:
    aggregate_id: str
    at: datetime
    lines: list[Line]
    event_id: UUID = attrs.field(factory=uuid4)


@event_type("tests.decode.Struct")
class PlacedStruct(msgspec.Struct, frozen=True, kw_only=True):
    aggregate_id: str
    at: datetime
    lines: list[Line]
    event_id: UUID = msgspec.field(default_factory=uuid4)


@event_type("tests.decode.Model")
class PlacedModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    aggregate_id: str
    at: datetime
    lines: list[Line]
    event_id: UUID = pydantic.Field(default_factory=uuid4)


@pytest.mark.parametrize("cls", [PlacedDataclass, PlacedAttrs, PlacedStruct, PlacedModel])
def test_there_and_back(cls: Callable[..., Any]) -> None:
    event = cls(aggregate_id="order-1", at=WHEN, lines=[Line("a", Decimal("1.10")), Line("b", Decimal(2))])
    sealed = Outbox().seal(event, tenant_id="acme")

    assert sealed.id == event.event_id
    assert json.loads(sealed.payload)["lines"][0] == {"sku": "a", "price": "1.10"}
    assert decode(sealed.type, sealed.schema_ver, sealed.payload) == event


def test_a_pydantic_model_that_cannot_be_written_fails_the_caller() -> None:
    @event_type("tests.decode.Opaque")
    class Opaque(pydantic.BaseModel):
        aggregate_id: str = "order-1"
        what: Any = None

    with pytest.raises(EventNotEncodable, match=r"^event 'tests\.decode\.Opaque' cannot be written as JSON: ."):
        Outbox().seal(Opaque(what=object()), tenant_id="acme")


@pytest.mark.parametrize("event_id", ["not-a-uuid", 7])
def test_an_id_that_is_no_uuid_is_refused_and_not_silently_replaced(event_id: Any) -> None:
    with pytest.raises(EventNotEncodable, match="it must be a UUID, or not be there"):
        Outbox().seal(PlacedDataclass("order-1", WHEN, [], event_id), tenant_id="acme")


@pytest.mark.parametrize("cls", ["Dataclass", "Attrs", "Struct", "Model"])
def test_a_payload_that_does_not_fit_raises_what_the_class_raises(cls: str) -> None:
    with pytest.raises((msgspec.ValidationError, pydantic.ValidationError)):
        decode(f"tests.decode.{cls}", 1, b'{"aggregate_id": 7}')


@event_type("tests.upcast.Placed", version=3)
@dataclass
class Placed:
    aggregate_id: str
    total_cents: int
    currency: str


@upcaster("tests.upcast.Placed", from_version=1)
def _cents(payload: dict[str, Any]) -> dict[str, Any]:
    return {"aggregate_id": payload["aggregate_id"], "total_cents": payload["total"] * 100}


@upcaster("tests.upcast.Placed", from_version=2)
def _currency(payload: dict[str, Any]) -> dict[str, Any]:
    return payload | {"currency": "EUR"}


@pytest.mark.parametrize(
    ("version", "payload"),
    [
        (1, b'{"aggregate_id": "order-1", "total": 12}'),
        (2, b'{"aggregate_id": "order-1", "total_cents": 1200}'),
        (3, b'{"aggregate_id": "order-1", "total_cents": 1200, "currency": "EUR"}'),
        ("1", b'{"aggregate_id": "order-1", "total": 12}'),
        ("3", b'{"aggregate_id": "order-1", "total_cents": 1200, "currency": "EUR"}'),
        (None, b'{"aggregate_id": "order-1", "total_cents": 1200, "currency": "EUR"}'),
    ],
)
def test_each_older_version_is_cast_up_step_by_step(version: int | str | None, payload: bytes) -> None:
    """As text it is a property of the message."""
    assert decode("tests.upcast.Placed", version, payload) == Placed("order-1", 1200, "EUR")


def test_a_pydantic_model_is_cast_up_as_well() -> None:
    @event_type("tests.upcast.Model", version=2)
    class Model(pydantic.BaseModel):
        aggregate_id: str
        added: bool

    @upcaster("tests.upcast.Model", from_version=1)
    def _add(payload: dict[str, Any]) -> dict[str, Any]:
        return payload | {"added": True}

    assert decode("tests.upcast.Model", 1, b'{"aggregate_id": "order-1"}') == Model(aggregate_id="order-1", added=True)


def test_a_renamed_class_reads_what_the_old_one_wrote() -> None:
    """The name is the type's, not the class's."""
    written = Outbox().seal(PlacedDataclass("order-1", WHEN, []), tenant_id="acme")

    assert written.type == "tests.decode.Dataclass"
    assert type(decode(written.type, written.schema_ver, written.payload)).__name__ == "PlacedDataclass"


def test_a_type_that_nobody_registered() -> None:
    with pytest.raises(MisuseError, match=r"'tests\.upcast\.Unknown' is not registered: import the module"):
        decode("tests.upcast.Unknown", 1, b"{}")


def test_a_version_from_the_future() -> None:
    with pytest.raises(MisuseError, match="has version 4, but its class here is 3: upgrade this consumer"):
        decode("tests.upcast.Placed", 4, b"{}")


def test_a_step_without_an_upcaster() -> None:
    @event_type("tests.upcast.Gap", version=3)
    @dataclass
    class Gap:
        aggregate_id: str

    upcaster("tests.upcast.Gap", from_version=1)(_currency)

    with pytest.raises(MisuseError, match=r"there is no @upcaster\('tests\.upcast\.Gap', from_version=2\)"):
        decode("tests.upcast.Gap", 1, b"{}")


def test_a_step_has_one_upcaster() -> None:
    with pytest.raises(MisuseError, match="has an upcaster from version 1 already"):

        @upcaster("tests.upcast.Placed", from_version=1)
        def _another(payload: dict[str, Any]) -> dict[str, Any]:
            return payload


def test_a_module_that_is_loaded_again_may_register_its_upcasters_again() -> None:
    def load() -> None:
        @upcaster("tests.upcast.LoadedTwice", from_version=1)
        def _step(payload: dict[str, Any]) -> dict[str, Any]:
            return payload

    load()
    load()


@pytest.mark.parametrize("version", [0, -1, "1"])
def test_steps_begin_at_version_1(version: Any) -> None:
    with pytest.raises(MisuseError, match=f"from_version is {version!r}, but versions count from 1"):
        upcaster("tests.upcast.Placed", from_version=version)


@pytest.mark.parametrize("version", [0, -1, "0", "", "two", 1.5])
def test_a_version_that_cannot_be(version: Any) -> None:
    with pytest.raises(MisuseError, match=r"'tests\.upcast\.Placed': schema_ver is .*, but versions count from 1"):
        decode("tests.upcast.Placed", version, b"{}")


def test_an_upcaster_must_return_the_payload() -> None:
    @event_type("tests.upcast.Forgetful", version=2)
    @dataclass
    class Forgetful:
        aggregate_id: str

    @upcaster("tests.upcast.Forgetful", from_version=1)
    def _changes_it_in_place(payload: dict[str, Any]) -> Any:
        payload["added"] = True

    with pytest.raises(MisuseError, match="the upcaster from version 1 returned None, not the newer payload"):
        decode("tests.upcast.Forgetful", 1, b'{"aggregate_id": "order-1"}')
