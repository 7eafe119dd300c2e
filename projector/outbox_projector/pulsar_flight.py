"""A flight as the broker stores it: its entries, and which bytes they take.

One entry holds the whole flight, or the rows of one key (`Flight.by_key`, for Key_Shared consumers). The client gives
an entry the sequence id of its first message, and sends the entries in the order of these: so they rise, and of a
flight that is sent again the broker stores the entries that it lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bento_outbox import Refusal
from bento_outbox.message_form import Message
from bento_outbox.pulsar_messages import built
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
        places.setdefault(event.key, []).append(place)
    return list(places.values())


def built_all(messages: Iterable[Message], first_sequence: int) -> list[Any]:
    """The client's own messages; the n-th (from 0) has the id `first_sequence + n`.

    Raises FlightRefused when one cannot be encoded, before any is sent: what is in the client cannot be taken back.
    """
    try:
        return [built(message, sequence) for sequence, message in enumerate(messages, first_sequence)]
    except UnicodeEncodeError as error:
        raise FlightRefused(Refusal("a text of the message has no form in UTF-8", permanent=True)) from error
