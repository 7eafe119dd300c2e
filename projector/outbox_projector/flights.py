"""What a lane and its two ports speak of: leases, flights, and what became of them.

A *lane* is a slice of a tenant's rows, by hash of their order key. A *flight* is what is published as one batch: some
rows of one topic, in order, with the sequence ids that the broker deduplicates by. It is written down before it is
sent, so that whoever comes after a crash sends the same rows under the same ids, cut in the same way: what the broker
has already, it drops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import UUID

from bento_outbox import BusUnavailable, Envelope, OutboxError, Refusal

LEASE_SECONDS = 10.0
"""After a crash a lane waits so long for its next owner. Each turn of the owner prolongs it."""


class LeaseLost(OutboxError):
    """Another process owns the lane now; this one must not touch it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to a lane.

    lane    from 0
    lanes   how many there are, as long as this epoch lasts: the lane has the rows whose key falls to it among so many
    epoch   rises with each new owner, and every write of the owner states it
    origin  tells the tenant's lanes from those of the same tenant in another database; the same for ever
    """

    lane: int
    lanes: int = 1
    epoch: int
    origin: str = ""


def most_bytes(event: Envelope) -> int:
    """An upper bound of what a message takes: text counts four bytes a character, and 500 are for our own fields."""
    characters = 2 * len(event.aggregate_id) + len(event.type) + len(event.tenant_id)
    for text in (event.ordering_key, event.schema_id, *event.headers, *event.headers.values()):
        characters += len(text) if text else 0
    return len(event.payload) + 4 * characters + 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Flight:
    """Rows of one batch, in order; the n-th (from 0) has the sequence id `first_sequence + n`.

    by_key: each key is a batch of its own; the broker stores them one by one, in the order of their first rows.
    size: upper bound of its bytes on the broker; found out if it is not given.
    recovered: written down by an earlier owner, so it may have been sent before.
    """

    topic: str
    first_sequence: int
    events: Sequence[Envelope]
    retry_counts: Mapping[UUID, int]
    by_key: bool = False
    size: int = 0
    recovered: bool = False

    def __post_init__(self) -> None:
        if not self.size:
            object.__setattr__(self, "size", sum(map(most_bytes, self.events)))

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + len(self.events) - 1

    @property
    def ids(self) -> list[UUID]:
        return [event.id for event in self.events]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one transaction does: settle what the broker has answered, then claim what comes next.

    settled    the broker has these, but for the events in `refused`
    refused    events that the broker does not take, with the reason
    withdrawn  written down, but never sent, or refused as a whole: the rows wait again
    limit      rows to claim at most; 0: none
    floors     for each topic whose producer is open, the lowest sequence id that is above the broker's
    rest       seconds that the owner may rest after it; the lease lasts longer
    """

    settled: Flight | None = None
    refused: Mapping[UUID, Refusal] = field(default_factory=dict)
    withdrawn: Sequence[Flight] = ()
    limit: int = 0
    floors: Mapping[str, int] = field(default_factory=dict)
    rest: float = 0.0

    @property
    def reverses(self) -> bool:
        """Whether rows come back that were to go: what was claimed after them must not go before them."""
        return bool(self.refused or self.withdrawn)

    def withdrawing(self, *flights: Flight | None) -> Turn:
        """The same, and these flights, which were never sent, are withdrawn."""
        return replace(self, withdrawn=[*self.withdrawn, *(flight for flight in flights if flight)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """What became of it.

    flight    what was claimed
    topic     where the next rows go, when no producer for it is open yet: then nothing was claimed
    more      whether there may be more rows to claim at once
    retried   refused events that are tried again
    failed    events that became ERR, refused or unreadable
    """

    flight: Flight | None = None
    topic: str | None = None
    more: bool = False
    retried: int = 0
    failed: int = 0


class LaneStore(Protocol):
    """The database as the owner of a lane sees it. Every call is one transaction; DatabaseUnavailable, LeaseLost."""

    async def open_flights(self, lease: Lease) -> list[Flight]:
        """What earlier owners wrote down and did not settle, in the order of claiming; all are `recovered`."""
        ...

    async def turn(self, lease: Lease, turn: Turn) -> Turned: ...


class Producer(Protocol):
    """The right to publish to one topic under the lane's name; a later one for the same lane ends it."""

    @property
    def last_sequence(self) -> int:
        """The highest id that the broker has from this lane, read when the producer was opened; 0: none."""
        ...

    async def publish(self, flight: Flight) -> bool:
        """Sends the flight as one batch, or one a key. Whether all of it was stored now: False: something was before.

        Raises BusUnavailable; EventsRefused: all others of the flight are stored; FlightRefused: none is; LeaseLost: a
        later owner has opened the topic.
        """
        ...


class FlightRefused(OutboxError):
    """The broker does not take this batch, and did not say which event is at fault. Nothing of it was stored."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class NoPartition(BusUnavailable):
    """The configured topic has no partition for this lane, so nothing can be published in it."""


class LanePublisher(Protocol):
    """The broker as one lane sees it."""

    async def open(self, topic: str) -> Producer:
        """Raises BusUnavailable, NoPartition; FlightRefused when the rows chose a topic that cannot be used."""
        ...

    async def close(self) -> None:
        """Ends all producers. Never raises."""
        ...
