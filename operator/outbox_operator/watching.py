"""Whether the watches are alive: what we learn in another way, a watch has to tell us, too.

A watch that broke is noticed by kopf, which connects again. This finds the ones that look alive and say nothing more.
Whenever an answer to a write of our own, or a list, brings news of an object, the watch of its kind is expected to
bring an event of that version or a later one (versions only grow, and a watch tells them in their order). If none has
come after GRACE_SECONDS, the process counts as unhealthy and Kubernetes restarts it.

It may be wrong once in a while: an object that is deleted during a gap in the watch is never told of. Then the restart
costs nothing but a list.
"""

from __future__ import annotations

from typing import Final

from outbox_operator.keys import Kind, Manifest
from outbox_operator.workqueue import Clock

GRACE_SECONDS: Final = 120
"""kopf notices a silent connection after 70 seconds (the API server sends a bookmark every 60), then lists anew."""


class WatchMonitor:
    """See the module."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._expected: dict[tuple[str, str], tuple[int, float]] = {}
        """By kind and namespace: the oldest version that no watch has told of yet, and since when we know it."""

    def expect(self, kind: Kind, obj: Manifest) -> None:
        """There was news of an object, and not from a watch."""
        self._expected.setdefault(_place(kind, obj), (_version(obj), self._clock.time()))

    def seen(self, kind: Kind, obj: Manifest) -> None:
        """A watch told of an object, news or not."""
        place = _place(kind, obj)
        expected = self._expected.get(place)
        if expected is not None and _version(obj) >= expected[0]:
            del self._expected[place]

    def dead(self) -> str | None:
        """Why the process is not healthy, as far as this part can tell."""
        for (plural, namespace), (_, since) in self._expected.items():
            seconds = self._clock.time() - since
            if seconds >= GRACE_SECONDS:
                return f"the watch of {plural} in {namespace} has missed a change for {seconds:.0f} seconds"
        return None


def _place(kind: Kind, obj: Manifest) -> tuple[str, str]:
    return kind.plural, obj["metadata"]["namespace"]


def _version(obj: Manifest) -> int:
    return int(obj["metadata"]["resourceVersion"])
