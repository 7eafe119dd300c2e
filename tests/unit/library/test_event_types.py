"""Which classes are events, and what becomes of an event when it is sealed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, computed_field
from pydantic.alias_generators import to_camel

from bento_outbox import EventNotEncodable, MisuseError, Outbox, OutboxError, event_type, in_conversation
from bento_outbox.event_types import decode


@event_type("tests.Happened", version=3, schema_id="schemas/happened")
@dataclass
class Happened:
    aggregate_id: str = "order-1"
    what: Any = None


@event_type("tests.HappenedAttrs")
@attrs.frozen
class HappenedAttrs:
    aggregate_id: str
    what: str


@event_type("tests.HappenedStruct")
class HappenedStruct(msgspec.Struct, frozen=True):
    aggregate_id: str
    what: str


@event_type("tests.HappenedOnce")
@dataclass
class HappenedOnce:
    aggregate_id: str
    event_id: UUID = field(default_factory=uuid4)


@event_type("tests.types.AnyModel")
class AnyModel(BaseModel):
    aggregate_id: str
    what: Any


@event_type("tests.types.Aliased")
class Aliased(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")

    aggregate_id: str
    total_cents: int

    @computed_field
    def total(self) -> str:
        return f"{self.total_cents} cents"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Happened("order-1", "paid"), id="dataclass"),
        pytest.param(lambda: HappenedAttrs("order-1", "paid"), id="attrs"),
        pytest.param(lambda: HappenedStruct("order-1", "paid"), id="msgspec-struct"),
    ],
)
def test_the_payload_holds_the_events_fields(make: Any) -> None:
    sealed = Outbox().seal(make(), tenant_id="acme")

    assert json.loads(sealed.payload) == {"aggregate_id": "order-1", "what": "paid"}
    assert (sealed.aggregate_id, sealed.tenant_id) == ("order-1", "acme")


def test_type_schema_and_version_are_those_of_the_registration() -> None:
    sealed = Outbox().seal(Happened(), tenant_id="acme")

    assert (sealed.type, sealed.schema_id, sealed.schema_ver) == ("tests.Happened", "schemas/happened", 3)


def test_the_schema_id_defaults_to_the_name_and_the_version_to_1() -> None:
    sealed = Outbox().seal(HappenedStruct("order-1", "paid"), tenant_id="acme")

    assert (sealed.schema_id, sealed.schema_ver) == ("tests.HappenedStruct", 1)


def test_an_events_own_id_is_kept() -> None:
    happened = HappenedOnce("order-1")

    assert Outbox().seal(happened, tenant_id="acme").id == happened.event_id


def test_an_event_without_an_id_gets_a_new_one_each_time_above_those_before() -> None:
    happened = Happened()
    ids = [Outbox().seal(happened, tenant_id="acme").id for _ in range(1000)]

    assert ids == sorted(set(ids))


def test_processes_that_were_one_give_different_ids() -> None:
    """As a server that forks its workers. An event with the id of another would be taken for it, and left out."""
    script = (
        "import os\n"
        "from bento_outbox.event_types import uuid7\n"
        "first = uuid7()\n"
        "os.fork()\n"
        "os.write(1, f'{first}\\n{uuid7()}\\n'.encode())\n"
    )
    ids = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True).stdout.split()

    assert (len(ids), len(set(ids))) == (4, 3)
    assert len({id_[-8:] for id_ in ids}) == 3  # the random part, which time does not tell apart


def test_dates_decimals_and_ids_are_written_as_text() -> None:
    what = [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), date(2026, 1, 2), Decimal("1.10"), UUID(int=7)]

    written = json.loads(Outbox().seal(Happened(what=what), tenant_id="acme").payload)["what"]

    assert written == ["2026-01-02T03:04:05Z", "2026-01-02", "1.10", "00000000-0000-0000-0000-000000000007"]


_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | _texts | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(_texts, inner),
    max_leaves=10,
)


@given(what=_values)
def test_any_json_value_survives_the_way_into_the_payload(what: Any) -> None:
    assert json.loads(Outbox().seal(Happened(what=what), tenant_id="acme").payload)["what"] == what


def _a_list_within_itself() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(object(), id="object"),
        pytest.param("\ud800", id="half-a-character"),
        pytest.param({object(): 1}, id="key-that-is-no-text"),
        pytest.param(_a_list_within_itself(), id="list-within-itself"),
    ],
)
def test_a_value_that_json_cannot_hold_fails_the_caller(what: Any) -> None:
    with pytest.raises(EventNotEncodable, match=r"^event 'tests\.Happened' cannot be written as JSON: ."):
        Outbox().seal(Happened(what=what), tenant_id="acme")


@pytest.mark.parametrize("what", ["\0", "a\\\0", {"\0": 1}])
def test_the_character_nul_which_postgres_cannot_store_fails_the_caller(what: Any) -> None:
    with pytest.raises(EventNotEncodable, match="holds the character NUL"):
        Outbox().seal(Happened(what=what), tenant_id="acme")


def test_text_that_only_looks_like_an_escaped_nul_is_stored() -> None:
    assert json.loads(Outbox().seal(Happened(what="\\u0000"), tenant_id="acme").payload)["what"] == "\\u0000"


@pytest.mark.parametrize("aggregate_id", ["", None, 7])
def test_an_event_must_say_what_it_happened_to(aggregate_id: Any) -> None:
    with pytest.raises(EventNotEncodable, match="must be a non-empty string") as raised:
        Outbox().seal(Happened(aggregate_id), tenant_id="acme")

    assert repr(aggregate_id) in str(raised.value)


def test_an_event_without_the_attribute_aggregate_id_is_refused() -> None:
    @event_type("tests.HappenedToNobody")
    @dataclass
    class HappenedToNobody:
        what: str

    with pytest.raises(EventNotEncodable, match="aggregate_id None"):
        Outbox().seal(HappenedToNobody("paid"), tenant_id="acme")  # type: ignore[arg-type]


def test_a_class_that_is_not_registered_is_no_event_and_the_message_shows_the_cure() -> None:
    @dataclass
    class Unregistered:
        aggregate_id: str

    with pytest.raises(EventNotEncodable, match=r"Unregistered is not a registered event type: .*@event_type\("):
        Outbox().seal(Unregistered("order-1"), tenant_id="acme")


def test_a_subclass_of_an_event_needs_a_name_of_its_own() -> None:
    class HappenedLater(Happened):
        pass

    with pytest.raises(EventNotEncodable, match="not a registered event type"):
        Outbox().seal(HappenedLater(), tenant_id="acme")


def test_two_classes_cannot_have_one_name() -> None:
    with pytest.raises(MisuseError, match=r"'tests\.Happened' is already .*Happened: give .*Another a name of its own"):

        @event_type("tests.Happened")
        @dataclass
        class Another:
            aggregate_id: str


def test_a_module_that_is_loaded_again_may_register_its_classes_again() -> None:
    def load() -> type:
        @event_type("tests.LoadedTwice")
        @dataclass
        class LoadedTwice:
            aggregate_id: str

        return LoadedTwice

    load()

    assert Outbox().seal(load()("order-1"), tenant_id="acme").type == "tests.LoadedTwice"


@pytest.mark.parametrize("version", [0, -1, "2", 1.5])
def test_versions_count_from_1(version: Any) -> None:
    with pytest.raises(MisuseError, match=f"version is {version!r}, but versions count from 1"):
        event_type("tests.Versioned", version=version)


def test_the_decorator_without_a_name_is_refused_and_leaves_no_function_in_the_place_of_the_class() -> None:
    with pytest.raises(MisuseError, match=r"Nameless'> is no name of an event type: write @event_type\("):

        @event_type  # type: ignore[arg-type] # the mistake
        @dataclass
        class Nameless:
            aggregate_id: str


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("", "is empty: give one"), ("a\0b", "holds the character NUL"), ("a" * 501, "has 501 characters: at most 500")],
)
def test_a_name_that_cannot_be(name: str, complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        event_type(name)


@pytest.mark.parametrize(("schema_id", "complaint"), [(7, "must be text"), ("\ud800", "written in UTF-8")])
def test_a_schema_id_that_cannot_be(schema_id: Any, complaint: str) -> None:
    with pytest.raises(MisuseError, match=f"^event type 'tests.Versioned': schema_id is .*{complaint}"):
        event_type("tests.Versioned", schema_id=schema_id)


ON_THE_WAY: list[dict[str, Any]] = [
    *({name: value} for name in ("ordering_key", "topic", "tenant_id") for value in ("a\0b", "\ud800")),
    {"headers": {"campaign": "a\0b"}},
    {"headers": {"\ud800": "spring"}},
]


@pytest.mark.parametrize("options", ON_THE_WAY, ids=repr)
def test_text_that_cannot_be_stored_fails_the_caller(options: dict[str, Any]) -> None:
    with pytest.raises(EventNotEncodable, match=r"holds the character NUL|cannot be written in UTF-8"):
        Outbox().seal(Happened(), **({"tenant_id": "acme"} | options))


@pytest.mark.parametrize("options", [{"ordering_key": 7}, {"topic": b"orders"}, {"headers": {1: "spring"}}], ids=repr)
def test_what_is_no_text_fails_the_caller(options: dict[str, Any]) -> None:
    with pytest.raises(MisuseError, match="it must be text"):
        Outbox().seal(Happened(), tenant_id="acme", **options)


class Region(str, Enum):  # noqa: UP042 - as applications have it
    """Since Python 3.11 such a member is `Region.EU` within other text, and `eu` in JSON."""

    EU = "eu"


def test_members_of_an_enum_are_stored_as_the_text_that_they_are() -> None:
    event = Happened(Region.EU)
    options: dict[str, Any] = {"tenant_id": Region.EU, "ordering_key": Region.EU, "topic": Region.EU}
    with in_conversation(correlation_id=Region.EU):
        envelope = Outbox().seal(event, headers={"region": Region.EU}, **options)
    found = (envelope.tenant_id, envelope.aggregate_id, envelope.ordering_key, envelope.topic)
    assert [f"{text}" for text in (*found, *envelope.headers.values())] == ["eu"] * 6


def test_a_topic_has_at_most_500_characters() -> None:
    """What the projector knows of a topic is kept under its name."""
    assert Outbox().seal(Happened(), tenant_id="acme", topic="t" * 500).topic == "t" * 500
    with pytest.raises(MisuseError, match="topic has 501 characters: at most 500 are possible"):
        Outbox().seal(Happened(), tenant_id="acme", topic="t" * 501)


def test_private_fields_of_attrs_which_would_not_be_written_are_refused() -> None:
    @attrs.frozen
    class Private:
        aggregate_id: str
        _amount: int

    with pytest.raises(MisuseError, match=r"event type 'tests.Private': the payload would lack _amount, since"):
        event_type("tests.Private")(Private)


def test_a_constant_of_the_class_which_would_not_be_written_is_refused() -> None:
    @event_type("tests.Constant")
    @dataclass
    class Constant:
        aggregate_id: str
        kind: str = field(default="paid", init=False)

    with pytest.raises(EventNotEncodable, match=r"event 'tests.Constant': the payload would lack kind, of which"):
        Outbox().seal(Constant("1"), tenant_id="acme")


def test_fields_that_are_not_given_to_init_are_written_where_the_event_has_them() -> None:
    @event_type("tests.Summed")
    @dataclass
    class Summed:
        aggregate_id: str
        total: int = field(default=0, init=False)

        def __post_init__(self) -> None:
            self.total = 7

    @event_type("tests.ConstantInSlot")
    @dataclass(slots=True)
    class ConstantInSlot:
        aggregate_id: str
        kind: str = field(default="paid", init=False)

    @event_type("tests.Made")
    @dataclass
    class Made:
        aggregate_id: str
        lines: list[int] = field(default_factory=lambda: [1], init=False)

    written = [Outbox().seal(cls("1"), tenant_id="acme").payload for cls in (ConstantInSlot, Made, Summed)]
    assert [json.loads(payload) | {"aggregate_id": "1"} for payload in written] == [
        {"aggregate_id": "1", "kind": "paid"},
        {"aggregate_id": "1", "lines": [1]},
        {"aggregate_id": "1", "total": 7},
    ]


def test_a_table_is_not_given_by_its_name() -> None:
    with pytest.raises(MisuseError, match="the table is 'outbox': give one that `make_outbox_table` made"):
        Outbox(table="outbox")  # type: ignore[arg-type] # the mistake


def _below(error: type[BaseException]) -> Iterator[type[BaseException]]:
    for child in error.__subclasses__():
        yield child
        yield from _below(child)


def test_every_error_of_ours_has_one_root() -> None:
    names = {error.__name__ for error in _below(OutboxError) if error.__module__ == "bento_outbox.errors"}

    assert names == {
        *("BusUnavailable", "EventNotEncodable", "EventsRefused", "MisuseError"),
        *("NoActiveUnitOfWork", "SchemaError", "TenantMissing"),
    }


@pytest.mark.parametrize("what", [math.nan, math.inf, {"deep": [(1.0, -math.inf)]}])
@pytest.mark.parametrize("of_pydantic", [False, True])
def test_a_number_that_is_none_does_not_become_null_in_silence(what: Any, of_pydantic: bool) -> None:
    made = AnyModel(aggregate_id="1", what=what) if of_pydantic else Happened("1", what)
    with pytest.raises(EventNotEncodable, match="holds NaN or an infinity"):
        Outbox().seal(made, tenant_id="acme")
    Outbox().seal(Happened("1", [None, 1.5]), tenant_id="acme")


def test_nor_does_one_in_a_deque() -> None:
    """Of which pydantic alone makes JSON."""
    with pytest.raises(EventNotEncodable, match="holds NaN or an infinity"):
        Outbox().seal(AnyModel(aggregate_id="1", what=deque([math.nan])), tenant_id="acme")


def test_a_model_with_aliases_and_computed_fields_is_read_as_it_was_written() -> None:
    made = Aliased.model_validate({"aggregateId": "1", "totalCents": 5})
    assert decode("tests.types.Aliased", 1, Outbox().seal(made, tenant_id="acme").payload) == made


@pytest.mark.parametrize("event_id", ["", 0, "no-uuid"])
def test_an_id_that_is_no_uuid_is_refused(event_id: Any) -> None:
    with pytest.raises(EventNotEncodable, match="it must be a UUID"):
        Outbox().seal(HappenedOnce("1", event_id), tenant_id="acme")
