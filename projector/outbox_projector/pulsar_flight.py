"""A flight as the broker stores it: its entries, which bytes they take, and what is answered to each.

One entry holds the whole flight, or the rows of one key (`Flight.by_key`, for Key_Shared consumers). The client gives
an entry the sequence id of its first message, and sends the entries in the order of these: so they rise, and of a
flight that is sent again the broker stores the entries that it lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Any

from bento_outbox import Refusal
from bento_outbox.message_form import Message
from outbox_projector.flights import Flight, FlightRefused

MOST_BYTES = 4 << 20
"""Of a flight of several rows. Below the broker's default limit for an entry (5 MiB), so that what is refused here is
cut without asking; where the broker's limit is lower, it refuses and the flight is cut then."""

ROW_OVERHEAD = 128
"""Bytes that a message takes in a batch beside its payload, key and properties; generous, as the 8 of each property."""

Entry = Sequence[int]
"""The places in the flight, from 0 and in order, of what is stored together."""


def entries_of(flight: Flight, messages: Sequence[Message]) -> list[Entry]:
    """In the order in which they are sent."""
    if not flight.by_key:
        return [range(len(messages))]
    places: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        places.setdefault(message.key, []).append(place)
    return list(places.values())


def check_size(messages: Sequence[Message], most_bytes: int = MOST_BYTES) -> int:
    """Bytes of the flight. Raises FlightRefused before anything is sent: what is in the client cannot be taken back."""
    try:
        size = sum(message.size + ROW_OVERHEAD + 8 * len(message.properties) for message in messages)
    except UnicodeEncodeError as error:
        raise FlightRefused(Refusal(f"the message cannot be encoded: {error}", permanent=True)) from error
    if len(messages) > 1 and size > most_bytes:
        raise FlightRefused(Refusal(f"the batch is larger than {most_bytes} bytes"))
    return size


class Answers:
    """What the broker answers to each entry: a name, and whether it stored the entry now."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Made on the event loop that waits for it."""
        self._loop = asyncio.get_running_loop()
        self._all: asyncio.Future[dict[int, tuple[str, bool]]] = self._loop.create_future()
        self._awaited = len(entries)
        self._by_first: dict[int, tuple[str, bool]] = {}
        # All messages of an entry share one fate, and a callback costs a multiple of sending the message.
        self._callbacks = {entry[-1]: partial(self._take, entry[0]) for entry in entries}

    def callback(self, place: int) -> Any:
        """For the message at this place; None where it is not the last of its entry."""
        return self._callbacks.get(place)

    async def all(self) -> dict[int, tuple[str, bool]]:
        """By the first place of each entry."""
        return await self._all

    def _take(self, first: int, result: Any, message_id: Any) -> None:
        """Runs on a thread of the client, where an exception would end the process; the loop may be closed already."""
        # A duplicate is answered with Ok, but was stored nowhere: the ledger of its message id is -1.
        self._by_first[first] = result.name, message_id is None or message_id.ledger_id() != -1
        if len(self._by_first) == self._awaited:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self._all.done():
            self._all.set_result(self._by_first)
