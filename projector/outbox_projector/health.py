"""What the process knows about itself: its two connections, its loop, its counts.

Written by the loop (as its Observer) and by the reporter (backlog, check of an idle broker, and what the loop has not
tried yet); read by the reporter and the HTTP endpoints. All on one event loop, so without locks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from bento_outbox import BusUnavailable
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Flight
from outbox_projector.metrics import Metrics
from outbox_projector.store import Backlog

log = structlog.get_logger()

TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
STUCK_AFTER_SECONDS = 120
"""A turn of the loop takes at most a claim, a publish and a settle, each with its own time limit below this sum."""
BROKER_SILENT_SECONDS = 30
"""A lane that has something to publish has tried it again by then, also in an outage."""


def utc_now() -> datetime:
    """The current time, with its zone."""
    return datetime.now(UTC)


@dataclass(slots=True)
class Condition:
    """One condition of the OutboxTenant, in the sense of Kubernetes' metav1.Condition."""

    type: str
    status: str = UNKNOWN
    reason: str = "NotTried"
    message: str = ""
    since: datetime = field(default_factory=utc_now)

    def become(self, status: str, reason: str, message: str, now: datetime) -> None:
        """Takes the new state; `since` moves only when the status does."""
        if status != self.status:
            self.since = now
        self.status, self.reason, self.message = status, reason, message


class Health:
    """The state of this projector; implements the loop's Observer."""

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        exactly_once: bool = False,
    ) -> None:
        """exactly_once: the broker has to deduplicate, and the conditions tell whether it does."""
        self._metrics = metrics
        self._clock = clock
        self._monotonic = monotonic  # nobody sets it back
        now = clock()
        self.database = Condition("DatabaseReachable", since=now)
        self.broker = Condition("BrokerReachable", since=now)
        self.failing = Condition("EventsFailing", since=now)
        self.deduplication = Condition("DeduplicationActive", since=now) if exactly_once else None
        self._without_deduplication: set[str] = set()
        self._troubles: dict[int, BusUnavailable] = {}  # of the lanes that do not get through to the broker
        self._unanswered: dict[int | None, DatabaseUnavailable] = {}  # the same of the database, with the loop as None
        self.backlog: Backlog | None = None
        self.stirred = asyncio.Event()
        """Set when something was settled or a connection came or went: the backlog is worth another look. The reporter
        clears it."""
        self.sent_total = 0
        self.last_published: datetime | None = None
        self.is_listening = False
        self._last_turn = self._broker_heard = monotonic()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        conditions = self.database, self.broker, self.failing
        return conditions if self.deduplication is None else (*conditions, self.deduplication)

    @property
    def loop_is_alive(self) -> bool:
        """The loop began a turn not long ago."""
        return self._monotonic() - self._last_turn < STUCK_AFTER_SECONDS

    @property
    def knows_its_state(self) -> bool:
        """Both connections were tried, or the first failed, which is known and reported."""
        return self.database.status == FALSE or UNKNOWN not in (self.database.status, self.broker.status)

    @property
    def broker_is_silent(self) -> bool:
        """No lane tries it: nothing waits, all that waits is for later, or other processes have the lanes."""
        silence = self._monotonic() - self._broker_heard
        return not self._troubles and silence >= BROKER_SILENT_SECONDS

    def turned(self) -> None:
        self._last_turn = self._monotonic()

    def database_answered(self, lane: int | None = None) -> None:
        """lane: None when it answered the loop, with all that follows from a look."""
        self._unanswered.pop(lane, None)
        if self._unanswered:
            # One that gets nowhere is not hidden by those that do: what the one may, the other may not.
            self._database_is_down()
            return
        self._become(self.database, TRUE, "Connected", "")
        self._metrics.database_up.set(1)

    def database_failed(self, error: DatabaseUnavailable, lane: int | None = None) -> None:
        self._unanswered[lane] = error
        if lane is None or self.database.status != FALSE:
            # Nothing is published and nothing checked meanwhile: what was known of the broker grows old.
            self.broker.become(UNKNOWN, "NotTried", "not tried while the database cannot be reached", self._clock())
        self._database_is_down()

    def _database_is_down(self) -> None:
        error = next(iter(self._unanswered.values()))  # the same one for as long as it lasts
        self._become(self.database, FALSE, error.reason, str(error))
        self._metrics.database_up.set(0)

    def broker_answered(self, lane: int | None = None) -> None:
        """lane: None when it was a check while no lane tries, so that none has anything to get through with."""
        self._broker_heard = self._monotonic()
        if lane is None:
            self._troubles.clear()
        else:
            self._troubles.pop(lane, None)
        if self._troubles:
            # One lane that stands still is not hidden by the others that go on.
            self.broker_failed(self._troubles[min(self._troubles)])
            return
        self._become(self.broker, TRUE, "Connected", "")
        self._metrics.broker_up.set(1)

    def broker_failed(self, error: BusUnavailable, lane: int | None = None) -> None:
        self._broker_heard = self._monotonic()
        if lane is not None:
            self._troubles[lane] = error
        self._become(self.broker, FALSE, error.reason, str(error))
        self._metrics.broker_up.set(0)

    def lane_ended(self, lane: int) -> None:
        """Its trouble is its next owner's."""
        self._unanswered.pop(lane, None)  # the loop's next look says what that makes of the rest
        if self._troubles.pop(lane, None) and not self._troubles:
            self._become(self.broker, UNKNOWN, "NotTried", "the lane that did not get through has ended")

    def settled(self, *, sent: int, retried: int, failed: int) -> None:
        self.sent_total += sent
        if sent:
            self.last_published = self._clock()
        self._metrics.published.inc(sent)
        self._metrics.retried.inc(retried)
        self._metrics.failed.inc(failed)
        self.stirred.set()

    def counter_behind(self, topic: str) -> None:
        log.error("the broker's counter was above ours: the events are sent again under ids above it", topic=topic)

    def given_up(self, flight: Flight) -> None:
        if self.deduplication is None:
            return  # at least once: it is sent again after any outage
        log.error(
            "it cannot be sent again to where it was: an open flight is tried under new ids and may be there twice",
            topic=flight.topic,
            events=len(flight.events),
        )
        self._metrics.perhaps_doubled.inc(len(flight.events))

    def deduplication_seen(self, topic: str, *, active: bool) -> None:
        change = self._without_deduplication.discard if active else self._without_deduplication.add
        change(topic)
        if self.deduplication is None:
            return
        if not self._without_deduplication:
            self.deduplication.become(TRUE, "Deduplicating", "", self._clock())
            return
        without = min(self._without_deduplication)
        namespace = "/".join(without.removeprefix("persistent://").split("/")[:2])
        self.deduplication.become(
            FALSE,
            "DeduplicationDisabled",
            f"the broker does not deduplicate on {without}, so a crash may publish events twice: "
            f"`pulsar-admin namespaces set-deduplication {namespace} --enable`",
            self._clock(),
        )

    def deduplication_forgotten(self, topic: str, *, perhaps_doubled: int) -> None:
        # By default six hours after the last event, so it is told as an error only where it may have cost something.
        if perhaps_doubled:
            log.error(
                "the broker has forgotten what it had of us: an open flight is sent again and may be there twice",
                topic=topic,
                events=perhaps_doubled,
            )
            self._metrics.perhaps_doubled.inc(perhaps_doubled)
        else:
            log.info("the broker has forgotten what it had of us", topic=topic)

    def listening(self, works: bool) -> None:
        """Whether commits wake this projector, from now on."""
        self.is_listening = works
        self._metrics.listening.set(works)

    def measured(self, backlog: Backlog) -> None:
        """Takes the counts of the table."""
        self.backlog = backlog
        if backlog.errors:
            message = f"{backlog.errors} event(s) in ERR: `bento-outbox errors list` shows why"
            self.failing.become(TRUE, "EventsInError", message, self._clock())
        else:
            self.failing.become(FALSE, "NoErrors", "", self._clock())
        self._metrics.pending.set(backlog.pending)
        self._metrics.errors.set(backlog.errors)
        self._metrics.oldest_pending_seconds.set(backlog.oldest_seconds)

    def _become(self, condition: Condition, status: str, reason: str, message: str) -> None:
        if (condition.status, condition.reason) != (status, reason):
            self.stirred.set()
        condition.become(status, reason, message, self._clock())
