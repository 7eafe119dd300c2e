"""What travels beside the payload."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach, detach
from opentelemetry.sdk.trace import TracerProvider

from bento_outbox import MisuseError, Outbox, event_type, in_conversation
from bento_outbox import headers as headers_module
from bento_outbox.headers import RESERVED, capture


@event_type("tests.headers.Noticed")
@dataclass
class Noticed:
    aggregate_id: str = "order-1"


def test_without_trace_and_conversation_there_are_none() -> None:
    assert capture() == {}
    assert Outbox().seal(Noticed(), tenant_id="acme").headers == {}


def test_the_ids_of_the_conversation() -> None:
    with in_conversation(correlation_id="order-7", causation_id="message-1"):
        assert capture() == {"correlation_id": "order-7", "causation_id": "message-1"}
    with in_conversation(correlation_id="order-7"):
        assert capture() == {"correlation_id": "order-7"}
    assert capture() == {}


def test_a_conversation_within_another_replaces_it_and_ends_with_its_block() -> None:
    def fail() -> None:
        with in_conversation(correlation_id="inner"):
            assert capture() == {"correlation_id": "inner"}
            raise ZeroDivisionError

    with in_conversation(correlation_id="outer", causation_id="cause"):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert capture() == {"correlation_id": "outer", "causation_id": "cause"}


async def test_tasks_inherit_the_conversation_and_do_not_share_it() -> None:
    async def headers_within(name: str) -> dict[str, str]:
        with in_conversation(correlation_id=name):
            await asyncio.sleep(0)
            return capture()

    async def inherited() -> dict[str, str]:
        return capture()

    with in_conversation(correlation_id="parent"):
        found = await asyncio.gather(headers_within("one"), headers_within("two"), inherited())

    assert [headers["correlation_id"] for headers in found] == ["one", "two", "parent"]


def test_headers_of_ones_own_win() -> None:
    with in_conversation(correlation_id="context"):
        sealed = Outbox().seal(Noticed(), tenant_id="acme", headers={"correlation_id": "own", "locale": "de"})

    assert sealed.headers == {"correlation_id": "own", "locale": "de"}


def test_the_headers_are_a_copy() -> None:
    own = {"locale": "de"}
    sealed = Outbox().seal(Noticed(), tenant_id="acme", headers=own)
    own["locale"] = "fr"

    assert sealed.headers == {"locale": "de"}


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_names_of_our_properties_are_taken(name: str) -> None:
    with pytest.raises(MisuseError, match=f"header '{name}' is the name of a property that we set"):
        capture({name: "mine"})


@pytest.mark.parametrize("value", [7, None, b"bytes"])
def test_headers_are_text(value: Any) -> None:
    with pytest.raises(MisuseError, match=re.escape(f"header 'retries' is {value!r}: it must be text")):
        capture({"retries": value})


@pytest.mark.parametrize("ids", [{"correlation_id": UUID(int=7)}, {"correlation_id": "a", "causation_id": 7}])
def test_ids_of_a_conversation_are_text(ids: dict[str, Any]) -> None:
    """Said where they are given, not where the next event is registered."""
    name, value = list(ids.items())[-1]
    with pytest.raises(MisuseError, match=re.escape(f"{name} is {value!r}: it must be text")), in_conversation(**ids):
        pass

    assert capture() == {}


def _trace_id(headers: dict[str, str]) -> str:
    version, trace_id, _span_id, _flags = headers["traceparent"].split("-")
    assert version == "00"
    return trace_id


def test_the_trace_in_which_an_event_is_registered() -> None:
    tracer = TracerProvider().get_tracer("tests")
    with tracer.start_as_current_span("request") as span:
        outside = capture()
        again = capture()
        with tracer.start_as_current_span("step") as step:
            inside = capture()

    ids = [f"{context.span_id:016x}" for context in (span.get_span_context(), step.get_span_context())]
    assert _trace_id(outside) == _trace_id(inside) == f"{span.get_span_context().trace_id:032x}"
    assert [headers["traceparent"].split("-")[2] for headers in (outside, inside)] == ids
    assert outside == again
    assert capture() == {}


def test_what_one_event_carries_another_does_not() -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("request"):
        capture()["locale"] = "de"

        assert set(capture()) == {"traceparent"}


@pytest.fixture
def _no_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.setitem(sys.modules, name, None)
    headers_module._trace.cache_clear()
    yield
    headers_module._trace.cache_clear()


@pytest.mark.usefixtures("_no_opentelemetry")
def test_without_opentelemetry_there_is_no_trace() -> None:
    with in_conversation(correlation_id="order-7"):
        assert capture() == {"correlation_id": "order-7"}


def test_the_baggage_of_a_request_does_not_go_to_everybody_who_reads_the_topic() -> None:
    token = attach(set_baggage("card", "4111"))
    try:
        assert "baggage" not in capture()
    finally:
        detach(token)
