"""Messages on their way to Pulsar: built, sent, answered.

By the parts that the client's own `send_async` is made of. It checks each argument and sets the properties one by one,
which is two fifths of what a message costs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import _pulsar

from bento_outbox.message_form import Message

Callback = Callable[[Any, Any], None]
"""Takes the client's result and message id, on a thread of the client, where an exception would end the process."""


def built(form: Message, sequence_id: int | None = None) -> Any:
    """The client's own message. Raises UnicodeEncodeError: a text of it has no form in UTF-8."""
    try:
        message = _pulsar.MessageBuilder().content(form.payload).properties(form.properties).partition_key(form.key)
    except TypeError:
        _ = form.size  # raises when that is why
        raise
    if sequence_id is not None:
        message.sequence_id(sequence_id)
    if form.event_time:
        message.event_timestamp(form.event_time)
    return message.build()


def sender(producer: Any) -> Callable[[Any, Callback | None], None]:
    """Sends what is built by a producer of the client; a callback costs a multiple of sending the message."""
    send: Callable[[Any, Callback | None], None] = producer._producer.send_async
    return send


class Answers:
    """What the broker answers: a name, and whether it has stored the message now, not before."""

    def __init__(self, awaited: int) -> None:
        """Made on the event loop that waits for so many."""
        self.by_place: dict[int, tuple[str, bool]] = {}
        """What has come so far, by the places that the callbacks were asked for."""
        self._loop = asyncio.get_running_loop()
        self._all: asyncio.Future[None] = self._loop.create_future()
        self._awaited = awaited

    def callback(self, place: int) -> Callback:
        """Takes the answer for this place."""
        return partial(self._take, place)

    def take(self, place: int, name: str, *, stored: bool) -> None:
        """An answer; fit for any thread."""
        self.by_place[place] = name, stored
        if len(self.by_place) == self._awaited:
            with contextlib.suppress(RuntimeError):  # the loop may be closed already when the process is stopping
                self._loop.call_soon_threadsafe(self._finish)

    async def all(self) -> dict[int, tuple[str, bool]]:
        """By place, when all have come."""
        await self._all
        return self.by_place

    def _take(self, place: int, result: Any, message_id: Any) -> None:
        # A duplicate is answered with Ok, but was stored nowhere: the ledger of its message id is -1.
        self.take(place, result.name, stored=message_id is None or message_id.ledger_id() != -1)

    def _finish(self) -> None:
        if not self._all.done():
            self._all.set_result(None)
