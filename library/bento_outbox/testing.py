"""The testing kit: what an application needs to test its own use of the outbox.

InMemoryMessageBus    a bus that keeps what was published and fails as it is told to
captured_events       pytest fixture: the events that aggregates register, without a database (`pytest_plugin`)
MessageBusContract    what every MessageBus must do, as tests; derive from it to test your own
"""

from __future__ import annotations

from bento_outbox.bus import InMemoryMessageBus
from bento_outbox.capturing import CapturedEvents, capture_events
from bento_outbox.message_bus_contract import MessageBusContract

__all__ = ["CapturedEvents", "InMemoryMessageBus", "MessageBusContract", "capture_events"]
