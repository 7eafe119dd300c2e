"""The testing kit: what an application needs to test its own use of the outbox. Needs pytest.

InMemoryMessageBus    a bus that keeps what was published and fails as it is told to
captured_events       pytest fixture, found by pytest itself: the events that aggregates register, without a database
capture_events        the same as a context manager
MessageBusContract    what every MessageBus must do, as tests; derive from it to test your own
"""

from __future__ import annotations

from bento_outbox.bus import InMemoryMessageBus
from bento_outbox.capturing import CapturedEvents, capture_events
from bento_outbox.message_bus_contract import MessageBusContract, MessageBusHarness, ReceivedEvent

__all__ = [
    "CapturedEvents",
    "InMemoryMessageBus",
    "MessageBusContract",
    "MessageBusHarness",
    "ReceivedEvent",
    "capture_events",
]
