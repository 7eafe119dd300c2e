"""The testing kit, as a project uses it that has nothing of ours but the installed distribution."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from bento_outbox import (
    EventNotEncodable,
    MisuseError,
    NoActiveUnitOfWork,
    event_type,
    register_event_from_aggregate,
)
from bento_outbox.testing import CapturedEvents, capture_events

DOMAIN = """
from dataclasses import dataclass
from bento_outbox import event_type, register_event_from_aggregate

@event_type("shop.Placed")
@dataclass(frozen=True)
class Placed:
    aggregate_id: str

def place(order_id):
    register_event_from_aggregate(Placed(order_id))
"""


@event_type("tests.kit.Placed")
@dataclass(frozen=True)
class Placed:
    aggregate_id: str


@event_type("tests.kit.Paid")
@dataclass(frozen=True)
class Paid:
    aggregate_id: str


@dataclass(frozen=True)
class Unregistered:
    aggregate_id: str


def test_the_fixture_is_there_by_itself(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        domain=DOMAIN,
        test_domain="""
            from domain import Placed, place

            def test_placing_tells(captured_events):
                place("order-1")
                assert captured_events == [Placed("order-1")]

            def test_nothing_is_left_of_other_tests(captured_events):
                assert captured_events == []

            async def helper():
                place("order-2")

            def test_in_a_coroutine_as_well(captured_events):
                import asyncio
                asyncio.run(helper())
                assert captured_events == [Placed("order-2")]
        """,
    )

    pytester.runpytest_subprocess("-W", "error", "-p", "no:asyncio").assert_outcomes(passed=3)


def test_a_project_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    """pytest loads the plugin in every project beside which we are installed."""
    pytester.makepyfile("""
        import sys

        def test_what_is_loaded():
            assert "bento_outbox_pytest" in sys.modules
            assert not {"bento_outbox", "sqlalchemy", "alembic", "asyncpg", "msgspec", "pulsar"} & set(sys.modules)
    """)

    plugins = ("-p", "no:hypothesispytest", "-p", "no:asyncio", "-p", "no:anyio")
    pytester.runpytest_subprocess("-W", "error", *plugins).assert_outcomes(passed=1)


def test_the_contract_holds_a_bus_to_its_promises(pytester: pytest.Pytester) -> None:
    """One that keeps them passes; one that drops every second event fails, and the test says which promise it broke."""
    pytester.makepyfile("""
        import pytest
        from bento_outbox import Envelope, InMemoryMessageBus, Refusal
        from bento_outbox.testing import MessageBusContract, ReceivedEvent

        class Harness:
            def __init__(self, bus):
                self.bus = bus

            async def received(self, count):
                assert len(self.bus.published) == count
                return [
                    ReceivedEvent(id=event.id, key=event.ordering_key or event.aggregate_id, payload=event.payload)
                    for event in self.bus.published
                ]

            def refused_for_ever(self):
                from uuid import uuid4
                self.bus.refuse("bad", Refusal("no", permanent=True))
                return Envelope(id=uuid4(), tenant_id="acme", aggregate_id="1", type="bad", payload=b"{}")

            async def unavailable(self):
                bus = InMemoryMessageBus()
                bus.go_down()
                return bus

        class Lossy(InMemoryMessageBus):
            async def publish(self, events):
                await super().publish(events[::2] if isinstance(events, list) else events)

        class TestGood(MessageBusContract):
            @pytest.fixture
            def harness(self):
                return Harness(InMemoryMessageBus())

        class TestLossy(MessageBusContract):
            @pytest.fixture
            def harness(self):
                return Harness(Lossy())
    """)

    result = pytester.runpytest_subprocess("-o", "asyncio_mode=auto")

    outcomes = result.parseoutcomes()
    assert outcomes["passed"] > outcomes["failed"] >= 2
    result.stdout.no_fnmatch_line("FAILED *TestGood*")
    result.stdout.fnmatch_lines(["FAILED *TestLossy::test_many_events_each_once*"])


def test_captured_events_are_those_of_the_block() -> None:
    with capture_events() as captured:
        register_event_from_aggregate(Placed("order-1"))
        with capture_events() as inner:
            register_event_from_aggregate(Paid("order-1"))
        register_event_from_aggregate(Placed("order-2"))

    assert captured == [Placed("order-1"), Placed("order-2")]
    assert inner == [Paid("order-1")]
    with pytest.raises(NoActiveUnitOfWork):
        register_event_from_aggregate(Placed("order-3"))


@pytest.mark.parametrize("wrong", [{"ordering_key": ""}, {"headers": {"event_id": "mine"}}, {"topic": "nul\0"}])
def test_what_could_not_be_stored_is_refused_here_too(captured_events: CapturedEvents, wrong: Any) -> None:
    with pytest.raises(MisuseError):
        register_event_from_aggregate(Placed("order-1"), **wrong)
    assert captured_events == []


def test_captured_events_by_type(captured_events: CapturedEvents) -> None:
    register_event_from_aggregate(Placed("order-1"))
    register_event_from_aggregate(Paid("order-1"), headers={"x": "y"}, ordering_key="customer-1", topic="t")

    assert captured_events.of_type(Paid) == [Paid("order-1")]


def test_an_event_that_could_not_be_stored_is_refused_here_too(captured_events: CapturedEvents) -> None:
    with pytest.raises(EventNotEncodable, match="is not a registered event type"):
        register_event_from_aggregate(Unregistered("order-1"))

    assert captured_events == []


def test_importing_the_kit_pulls_in_no_broker() -> None:
    program = "import sys, bento_outbox.testing; print(*{'pulsar', 'alembic', 'kubernetes'} & set(sys.modules))"

    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "\n"
