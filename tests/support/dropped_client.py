"""A process whose Pulsar client is dropped at the first answer to a publish of many events, as an outage does it.

Run as a process, since the fault it looks for stops the whole interpreter, with every time limit in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from bento_outbox import BusUnavailable, pulsar_bus
from bento_outbox.pulsar_messages import Answers
from tests.support.envelopes import envelope

EVENTS = 5_000


async def main(topic: str) -> None:
    """Prints how the publish ended."""
    loop = asyncio.get_running_loop()
    bus = pulsar_bus.PulsarMessageBus(os.environ["PULSAR_URL"], topic=topic, timeout_seconds=5)
    take, dropped = Answers.take, asyncio.Event()

    def drop() -> None:
        if not dropped.is_set():
            dropped.set()
            # What an outage that somebody else has noticed does to the client.
            try:
                with bus._connected():
                    raise BusUnavailable("noticed elsewhere")
            except BusUnavailable:
                pass

    def take_and_drop(*answer: Any, **more: Any) -> None:
        take(*answer, **more)
        loop.call_soon_threadsafe(drop)

    Answers.take = take_and_drop  # type: ignore[method-assign]  # the bus makes its own, for the length of one publish
    try:
        await bus.publish([envelope() for _ in range(EVENTS)])
    except BusUnavailable as outage:
        print(json.dumps({"event": "ended", "outage": True, "stored": len(outage.stored)}), flush=True)
    else:
        print(json.dumps({"event": "ended", "outage": False, "stored": EVENTS}), flush=True)
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
