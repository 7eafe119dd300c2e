"""What real Pulsar consumers received: which events, how often, and when the first came."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pulsar

RECEIVE_MILLISECONDS = 200


class Received:
    """A consumer of one topic, on a thread of its own, that counts event ids until it is closed."""

    def __init__(self, client: pulsar.Client, topic: str) -> None:
        self._consumer = client.subscribe(
            topic, "demo", initial_position=pulsar.InitialPosition.Earliest, receiver_queue_size=5000
        )
        self._closing = threading.Event()
        self.times_received: Counter[str] = Counter()
        self.first_at: float | None = None
        self._thread = threading.Thread(target=self._receive, name=f"consumer of {topic}", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        while not self._closing.is_set():
            try:
                message = self._consumer.receive(RECEIVE_MILLISECONDS)
            except pulsar.Timeout:
                continue
            self.first_at = self.first_at or time.monotonic()
            self.times_received[message.properties()["event_id"]] += 1
            self._consumer.acknowledge(message)

    def wait_for(self, count: int, limit_seconds: float) -> None:
        """Waits until `count` different events came. Ends the demo at the limit."""
        deadline = time.monotonic() + limit_seconds
        while len(self.times_received) < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"demo: only {len(self.times_received)} of {count} events came")
            time.sleep(0.05)

    def close(self) -> None:
        """Receives what is still on its way, then stops."""
        quiet_for, last = 0.0, -1
        while quiet_for < 1.0:
            now = sum(self.times_received.values())
            quiet_for, last = (quiet_for + 0.1, now) if now == last else (0.0, now)
            time.sleep(0.1)
        self._closing.set()
        self._thread.join()
        self._consumer.close()
