"""Who of several replicas acts: the one that holds the Lease.

                     nobody's, released, or unchanged for its whole duration
    standing by ───────────────────────────────────────────────────────────► leading ── renews every few seconds
        │ caches filled, no writes                                              │
        └ looks at the Lease every second                                       ├── stopped: gives the Lease back
                                                                                └── not renewed in time: LeadershipLost

A standby never compares another node's clock with its own: it measures by its own clock for how long the Lease has
not changed. The leader gives up (RENEW_DEADLINE_SECONDS) before a standby may take over (DURATION_SECONDS), so the two
do not overlap, however badly the network fails; and if they did, both would apply the same manifests.

Every write of the Lease is a server-side apply that names the version which it was decided on, so of two that see the
same Lease only one takes it. The first one is created by an apply, too: that is the one way to create it for which RBAC
can be restricted to its name.

client-go's algorithm. The Python client's own (kubernetes.aio.leaderelection) writes local time as UTC, ends at the
first broken connection, and can't give the Lease back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Final, NoReturn, Protocol

import structlog

from outbox_operator.cluster import Cluster
from outbox_operator.errors import ClusterError, Conflict, NotFound
from outbox_operator.keys import LEASE, Manifest

logger = structlog.get_logger(__name__)

DURATION_SECONDS: Final = 12
"""How long a Lease that nobody renews keeps others from taking it: with STANDBY_SECONDS, the time until the takeover
after a kill -9."""
RENEW_DEADLINE_SECONDS: Final = 8
"""A leader that could not renew for so long ends. The difference to DURATION_SECONDS is the margin for slow clocks."""
RENEW_SECONDS: Final = 3
RETRY_SECONDS: Final = 1
STANDBY_SECONDS: Final = 1
"""Between two looks of a standby: so long it takes to notice that the Lease was given back."""
REQUEST_SECONDS: Final = 3
"""For one request; several have to fit into the deadline."""


class LeadershipLost(ClusterError):
    """The Lease could not be renewed in time, or somebody else has it: whoever led must not write any more."""


class Step(Enum):
    """What to do about a Lease."""

    CREATE = auto()
    TAKE = auto()
    RENEW = auto()
    WAIT = auto()


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says. `holder` is empty when it was given back, or never taken."""

    holder: str
    duration_seconds: float
    transitions: int
    acquired: str | None
    version: str

    @classmethod
    def of(cls, lease: Manifest) -> Record:
        spec = lease.get("spec", {})
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_seconds=float(spec.get("leaseDurationSeconds") or DURATION_SECONDS),
            transitions=int(spec.get("leaseTransitions") or 0),
            acquired=spec.get("acquireTime"),
            version=lease["metadata"]["resourceVersion"],
        )


def decide(record: Record | None, *, me: str, unchanged_seconds: float) -> Step:
    """What `me` does about a Lease that it has seen unchanged for so long, by its own clock."""
    if record is None:
        return Step.CREATE
    if record.holder == me:
        return Step.RENEW
    if not record.holder or unchanged_seconds >= record.duration_seconds:
        return Step.TAKE
    return Step.WAIT


class Monotonic(Protocol):
    """A clock that only goes forward, in seconds."""

    def time(self) -> float: ...


class Election:
    """One replica's part in it. `step` is one look at the Lease; `run` repeats it until the leadership is lost."""

    def __init__(
        self, cluster: Cluster, *, namespace: str, name: str, me: str, clock: Monotonic, now: Callable[[], datetime]
    ) -> None:
        self._cluster, self._namespace, self._name, self._me = cluster, namespace, name, me
        self._clock, self._now = clock, now
        self._seen: tuple[Record, float] | None = None
        """The Lease as it was last, and since when it is like that, by our clock."""
        self._renewed: float | None = None
        """When the renewal that counts was sent; None while standing by."""
        self.leading = asyncio.Event()
        self.ran_out = False
        """Whether the Lease that we lead by had run out, not been given back: nobody led for a while."""

    @property
    def holds(self) -> bool:
        """Whether we may write at this moment. Also false in a leader that was suspended and has not noticed yet."""
        return self._renewed is not None and self._clock.time() < self._renewed + RENEW_DEADLINE_SECONDS

    async def run(self) -> NoReturn:
        """Stands by, then leads, and raises LeadershipLost at the end of that."""
        while True:
            seconds = await self.step()
            await asyncio.sleep(seconds)

    async def step(self) -> float:
        """Returns the seconds until the next step. Raises LeadershipLost."""
        if self.leading.is_set() and not self.holds:
            raise LeadershipLost(f"The Lease {self._name} was not renewed for {RENEW_DEADLINE_SECONDS} seconds.")
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._look()
        except (ClusterError, TimeoutError) as error:
            if isinstance(error, LeadershipLost):
                raise
            logger.warning("lease", error=str(error) or f"no answer for {REQUEST_SECONDS} seconds")
            return self._at_most(RETRY_SECONDS)
        return self._at_most(RENEW_SECONDS) if self.leading.is_set() else STANDBY_SECONDS

    async def release(self) -> None:
        """Gives the Lease back, so that a standby need not wait for its end. For when nothing is written any more, and
        `run` has ended: it may have been in the middle of a renewal, so the Lease is read again.
        """
        if not self.holds:
            return
        self._renewed = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                record = await self._read()
                if record is not None and record.holder == self._me:
                    await self._write(record, holder="")
        except (ClusterError, TimeoutError) as error:
            logger.warning("lease not given back", error=str(error))

    def _at_most(self, seconds: float) -> float:
        if self._renewed is None:
            return seconds
        return max(0.0, min(seconds, self._renewed + RENEW_DEADLINE_SECONDS - self._clock.time()))

    async def _look(self) -> None:
        began = self._clock.time()
        record = await self._read()
        if record is not None and (self._seen is None or self._seen[0] != record):
            self._seen = record, began
        step = decide(record, me=self._me, unchanged_seconds=began - self._seen[1] if self._seen else 0.0)
        if self.leading.is_set() and step is not Step.RENEW:
            raise LeadershipLost(f"The Lease {self._name} is held by {record.holder if record else 'nobody'}.")
        if step is Step.WAIT:
            return
        if step is not Step.RENEW:
            # Before the write, whose answer may never come: then the next look finds the Lease to be ours already.
            self.ran_out = record is not None and bool(record.holder)
        try:
            written = await self._write(record, holder=self._me)
        except Conflict:
            return  # Somebody else was faster, which the next look will show.
        self._seen = written, began
        self._renewed = began
        if not self.leading.is_set():
            logger.info("leading", lease=self._name, me=self._me, transitions=written.transitions)
            self.leading.set()

    async def _read(self) -> Record | None:
        try:
            return Record.of(await self._cluster.get(LEASE, self._namespace, self._name))
        except NotFound:
            return None

    async def _write(self, record: Record | None, *, holder: str) -> Record:
        now = self._now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        goes_on = record is not None and record.holder == holder
        manifest: Manifest = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": record.acquired if goes_on and record and record.acquired else now,
                "renewTime": now,
                "leaseTransitions": (record.transitions if record else 0) + (0 if goes_on or not holder else 1),
            },
        }
        if record is not None:
            manifest["metadata"]["resourceVersion"] = record.version
            applied = await self._cluster.apply(LEASE, manifest, force=True)
        else:
            # Under a name of its own, so that of two that create it at the same time one meets a conflict. Only then:
            # the Lease keeps every name under which it was written, for ever.
            applied = await self._cluster.apply(LEASE, manifest, force=False, manager=self._me)
        return Record.of(applied)
