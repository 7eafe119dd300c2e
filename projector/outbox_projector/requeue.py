"""Requests of people: `spec.requeue` and `spec.discard` of the OutboxTenant, each request id carried out once.

    seen in the spec ──begin──► noted in <outbox>_request ──batch──► … ──batch──► completed ──► in the status
                                                  └── a crash: whoever looks next goes on here ◄──┘

The note and the status are two writes. The status is made from the note and never the other way round, so a crash
between them repeats the status alone: see `request_store.py`.

Nobody watches. Every report's answer shows the spec; only while there are failed events, it is also asked for every
LOOK_SECONDS. So a request begins within some 12 seconds if there is anything to do, and else is answered after the next
report.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, get_args

import asyncpg
import structlog

from bento_outbox import MisuseError
from bento_outbox.failed_filter import Action
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.health import Health
from outbox_projector.report import timestamp
from outbox_projector.reporter import StatusWriteFailed
from outbox_projector.request_store import Progress, Request, RequestStore

log = structlog.get_logger()

LOOK_SECONDS = 10.0
"""Between two looks at the spec, give or take a fifth, so that tenants do not look all at once."""
LONGEST_MESSAGE = 1024
"""Characters; the API takes no more."""

_DONE: dict[Action, str] = {"requeue": "requeued", "discard": "discarded"}
_OVER = ("Completed", "Failed")


def open_requests(resource: Mapping[str, Any]) -> Iterator[Request]:
    """The requests in an OutboxTenant's spec that its status does not call completed or failed."""
    for action in get_args(Action):
        wanted, said = resource.get("spec", {}).get(action), resource.get("status", {}).get(action, {})
        if wanted and not (said.get("requestId") == wanted["requestId"] and said.get("state") in _OVER):
            yield Request(action=action, id=wanted["requestId"], filter=wanted.get("filter", {}))


class Resource(Protocol):
    """The OutboxTenant. latest: the whole object as the API server last showed it. Methods raise StatusWriteFailed."""

    latest: Mapping[str, Any]

    async def read(self) -> None: ...
    async def write_request(self, action: Action, status: Mapping[str, Any]) -> None: ...


class Requests:
    """The third loop: looks for requests, carries them out, writes their outcome."""

    def __init__(
        self, *, resource: Resource, store: RequestStore, health: Health, look_seconds: float = LOOK_SECONDS
    ) -> None:
        """health: knows whether there are failed events."""
        self._resource = resource
        self._store = store
        self._health = health
        self._look_seconds = look_seconds

    async def run_forever(self) -> None:
        """Runs until it is cancelled, which may happen anywhere."""
        while True:
            await asyncio.sleep(self._look_seconds * random.uniform(0.8, 1.2))  # noqa: S311 - spreads tenants
            await self.look()

    async def look(self) -> None:
        """One look, and all that it finds to do."""
        try:
            if self._health.backlog is not None and self._health.backlog.errors:
                await self._resource.read()
            for request in open_requests(self._resource.latest):
                await self._carry_out(request)
        except StatusWriteFailed as error:
            log.warning("requests not seen or not answered", cause=str(error))

    async def _carry_out(self, request: Request) -> None:
        progress: Progress | None = Progress(events=0)
        clock = asyncio.get_running_loop().time
        answered = clock()
        try:
            await self._store.begin(request)
            while progress is not None and progress.completed_at is None:
                if clock() - answered >= self._look_seconds:
                    await self._answer(request, "Running", progress, "some are done, the others follow")
                    answered = clock()
                progress = await self._store.batch(request)
        except DatabaseUnavailable as outage:
            await self._answer(request, "Running", progress, f"waits for the database: {outage}")
        except (ValueError, MisuseError, asyncpg.PostgresError) as error:
            sentence = str(error).splitlines()[0]
            log.warning("request failed", action=request.action, request_id=request.id, cause=sentence)
            await self._answer(request, "Failed", progress, f"{sentence}: correct it, and ask under another requestId")
        else:
            if progress is not None:
                log.info("request completed", action=request.action, request_id=request.id, events=progress.events)
                count = f"{progress.events} event{'' if progress.events == 1 else 's'}"
                await self._answer(request, "Completed", progress, f"{count} {_DONE[request.action]}")

    async def _answer(self, request: Request, state: str, progress: Progress | None, message: str) -> None:
        """Says so in the status, unless that is what it says."""
        answer: dict[str, Any] = {"requestId": request.id, "state": state, "message": message[:LONGEST_MESSAGE]}
        if progress is not None:
            answer["count"] = progress.events
            if progress.completed_at is not None:
                answer["completedTime"] = timestamp(progress.completed_at)
        if self._resource.latest.get("status", {}).get(request.action) != answer:
            await self._resource.write_request(request.action, answer)


@asynccontextmanager
async def carrying_out(requests: Requests) -> AsyncIterator[None]:
    """Looks for requests while the block runs; when that fails for a defect, so does the block."""
    async with asyncio.TaskGroup() as tasks:
        looking = tasks.create_task(requests.run_forever(), name="requests")
        yield
        looking.cancel()
