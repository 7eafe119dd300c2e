"""A flight as the broker stores it: its entries, which bytes they take, and what is answered to each.

One entry holds the whole flight, or the rows of one key (`Flight.by_key`, for Key_Shared consumers). The client gives
an entry the sequence id of its first message, and sends the entries in the order of these: so they rise, and of a
flight that is sent again the broker stores the entries that it lacks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import _pulsar

from bento_outbox import Refusal
from bento_outbox.message_form import Message, key_of
from outbox_projector.flights import Flight, FlightRefused

MOST_BYTES = 4 << 20
"""Of a flight of several rows, below the broker's default limit for an entry (5 MiB). Where the broker's is lower, it
refuses and the flight is cut then."""

Entry = Sequence[int]
"""The places in the flight, from 0 and in order, of what is stored together."""


def entries_of(flight: Flight) -> list[Entry]:
    """In the order in which they are sent."""
    if not flight.by_key:
        return [range(len(flight.events))]
    places: dict[str, list[int]] = {}
    for place, event in enumerate(flight.events):
        places.setdefault(key_of(event), []).append(place)
    return list(places.values())


def built(messages: Iterable[Message], first_sequence: int) -> list[Any]:
    """The client's own messages; the n-th (from 0) has the id `first_sequence + n`.

    The client's `send_async` checks each argument and sets the properties one by one, which is two fifths of what a
    message costs; it calls this builder. Raises FlightRefused when one cannot be encoded, before any is sent: what is
    in the client cannot be taken back.
    """
    new = _pulsar.MessageBuilder
    found = []
    try:
        for sequence, form in enumerate(messages, first_sequence):
            message = new().content(form.payload).properties(form.properties)
            message.partition_key(form.key).sequence_id(sequence)
            if form.event_time:
                message.event_timestamp(form.event_time)
            found.append(message.build())
    except TypeError as error:
        if form.is_encodable:
            raise
        raise FlightRefused(Refusal("a text of the message has no form in UTF-8", permanent=True)) from error
    return found


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
