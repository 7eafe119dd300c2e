"""Publishing right after the commit, with the real Postgres; the projector beside it, and once the real Pulsar."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import BusUnavailable, DirectPublish, Envelope, InMemoryMessageBus, Outbox, Refusal, UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.bus import as_list
from bento_outbox.direct_publish import DirectPublisher
from bento_outbox.pulsar_bus import PulsarMessageBus
from bento_outbox.schema import apply_schema
from bento_outbox.table import make_outbox_table, outbox_table
from outbox_projector import OutboxProjector
from tests.support.envelopes import envelope
from tests.support.notes import Ledger, Note, Noted, Unstorable, create_tables
from tests.support.pulsar_topics import Topics
from tests.support.rows import Rows, write

Sessions = async_sessionmaker[AsyncSession]
AT_ONCE = DirectPublish(first_pause_seconds=0)


@pytest.fixture(scope="module", autouse=True)
async def _tables(engine: AsyncEngine) -> None:
    await create_tables(engine)


@pytest.fixture
def new_work(sessions: Sessions, tenant: str, memory_bus: InMemoryMessageBus) -> Callable[..., UnitOfWork]:
    def make(**options: Any) -> UnitOfWork:
        defaults: dict[str, Any] = {"tenant_id": tenant, "message_bus": memory_bus, "direct_publish": AT_ONCE}
        return UnitOfWork(sessions, **(defaults | options))

    return make


@pytest.fixture
def projector_bus() -> InMemoryMessageBus:
    return InMemoryMessageBus()


@pytest.fixture
def projector(sessions: Sessions, tenant: str, projector_bus: InMemoryMessageBus) -> OutboxProjector:
    return OutboxProjector(sessions, projector_bus, tenant)


class CallingBus(InMemoryMessageBus):
    """Does something before it takes the events of the n-th call, from 1."""

    def __init__(self, before: Callable[[int, list[Envelope]], Any]) -> None:
        super().__init__()
        self.calls: list[list[Envelope]] = []
        self._before = before

    async def publish(self, events: Envelope | Sequence[Envelope]) -> None:
        self.calls.append(as_list(events))
        if (outcome := self._before(len(self.calls), self.calls[-1])) is not None:
            await outcome
        await super().publish(events)


def _raising(error: BaseException) -> CallingBus:
    def fail(*_: Any) -> None:
        raise error

    return CallingBus(fail)


def _numbers(events: Sequence[Envelope]) -> list[int]:
    return [int(event.payload.split(b'"number":')[1].split(b",")[0]) for event in events]


async def _held_seconds(sessions: Sessions, tenant: str) -> list[float]:
    """How long the projector still leaves each row alone; not above 0 if it may have it now."""
    statement = text(
        "SELECT CAST(extract(epoch FROM available_at - clock_timestamp()) AS float8) FROM outbox "
        "WHERE tenant_id = :tenant ORDER BY seq"
    )
    async with sessions() as session:
        return list((await session.execute(statement, {"tenant": tenant})).scalars())


async def _are_available(sessions: Sessions, tenant: str) -> bool:
    return all(seconds <= 0 for seconds in await _held_seconds(sessions, tenant))


async def test_events_for_another_table_are_left_to_its_projector(
    new_work: Any, sessions: Sessions, engine: AsyncEngine, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    """They would be marked in the unit's own table, where they are not, and be sent again."""
    other = make_outbox_table(MetaData(), name="another_outbox")
    await apply_schema(engine, table=other.name)
    async with new_work() as work:
        register(Noted(1))
        Outbox(table=other).add(work.session, Noted(2), tenant_id=rows.tenant)
        await work.commit()

    assert _numbers(memory_bus.published) == [1]
    assert await rows.statuses() == ["SENT"]
    [row] = await Rows(sessions, rows.tenant, other).all()
    assert row.status == "NEW"
    assert row.available_at - row.created_at < timedelta(seconds=AT_ONCE.hold_seconds / 2)


async def test_what_is_committed_is_published_at_once_and_marked(
    new_work: Any,
    rows: Rows,
    memory_bus: InMemoryMessageBus,
    projector: OutboxProjector,
    projector_bus: InMemoryMessageBus,
) -> None:
    async with new_work() as work:
        for number in (1, 2, 3):
            work.session.add(Note(tenant=rows.tenant, number=number))
            register(Noted(number))
        await work.commit()

    assert _numbers(memory_bus.published) == [1, 2, 3]
    assert await rows.statuses() == ["SENT"] * 3
    assert all(row.sent_at is not None for row in await rows.all())
    await projector.drain()
    assert projector_bus.published == []


async def test_publishing_is_after_the_commit_and_outside_any_transaction(
    new_work: Any, sessions: Sessions, rows: Rows, tenant: str
) -> None:
    seen: list[Any] = []

    async def look() -> None:
        seen.append((work.session.in_transaction(), await rows.statuses(), await Ledger(sessions, tenant).notes()))

    bus = CallingBus(lambda *_: look())
    async with new_work(message_bus=bus) as work:
        work.session.add(Note(tenant=tenant, number=1))
        register(Noted(1))
        await work.commit()

    assert seen == [(False, ["NEW"], [1])]


async def test_a_rolled_back_unit_of_work_publishes_nothing(
    new_work: Any, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    async with new_work() as work:
        register(Noted(1))
        await work.rollback()
        savepoint = await work.session.begin_nested()
        register(Noted(2))
        await savepoint.rollback()
        register(Noted(3))
        async with work.session.begin_nested():
            register(Noted(4))
        assert memory_bus.published == []
        await work.commit()
        register(Noted(5))

    assert _numbers(memory_bus.published) == [3, 4]


async def test_a_commit_that_fails_publishes_nothing(new_work: Any, rows: Rows, memory_bus: InMemoryMessageBus) -> None:
    async with new_work() as work:
        register(Noted(1))
        register(Unstorable(2))
        with pytest.raises(DBAPIError):
            await work.commit()
        await work.rollback()
        await work.commit()

    assert memory_bus.published == []
    assert await rows.all() == []


async def test_each_commit_publishes_its_own(new_work: Any, rows: Rows, memory_bus: InMemoryMessageBus) -> None:
    async with new_work() as work:
        for number in (1, 2):
            register(Noted(number))
            await work.commit()
        await work.commit()

    assert _numbers(memory_bus.published) == [1, 2]


async def test_an_outage_that_ends_in_time_is_tried_out(new_work: Any, rows: Rows) -> None:
    def fail_twice(call: int, _: list[Envelope]) -> None:
        if call < 3:
            raise BusUnavailable("down")

    bus = CallingBus(fail_twice)
    async with new_work(message_bus=bus) as work:
        register(Noted(1))
        await work.commit()

    assert (len(bus.calls), len(bus.published)) == (3, 1)
    assert await rows.statuses() == ["SENT"]


async def test_an_outage_leaves_the_events_to_the_projector_at_once(
    new_work: Any,
    sessions: Sessions,
    rows: Rows,
    projector: OutboxProjector,
    projector_bus: InMemoryMessageBus,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = _raising(BusUnavailable("no broker at home"))
    async with new_work(message_bus=bus) as work:
        register(Noted(1))
        register(Noted(2))
        await work.commit()

    assert len(bus.calls) == 3
    assert [(row.status, row.retry_cnt) for row in await rows.all()] == [("NEW", 0)] * 2
    assert await _are_available(sessions, rows.tenant)
    assert "2 event(s) not published directly, left to the projector: no broker at home" in caplog.messages
    await projector.drain()
    assert _numbers(projector_bus.published) == [1, 2]


async def test_the_pauses_between_the_tries_grow(sessions: Sessions, tenant: str) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    bus = _raising(BusUnavailable("down"))
    event = envelope(tenant_id=tenant)
    async with sessions.begin() as session:
        await write(session, event)
    policy = DirectPublish(tries=4, first_pause_seconds=2.0)
    publisher = DirectPublisher(bus=bus, table=outbox_table, session_factory=sessions, policy=policy, sleep=pause)
    await publisher.publish([event], held_since=asyncio.get_running_loop().time())

    assert len(bus.calls) == 4
    first, second, third = pauses
    assert 2 <= first <= 4 <= second <= 6
    assert 8 <= third <= 10


async def test_refused_events_are_left_to_the_projector_which_counts(
    new_work: Any, sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    bus = CallingBus(lambda *_: None)
    bus.refuse("tests.notes.Noted", Refusal("not today", permanent=True))
    async with new_work(message_bus=bus) as work:
        register(Noted(1))
        await work.commit()

    assert len(bus.calls) == 1
    assert [(row.status, row.retry_cnt, row.last_error) for row in await rows.all()] == [("NEW", 0, None)]
    assert await _are_available(sessions, rows.tenant)


async def test_what_the_bus_stored_before_it_went_away_is_sent_and_not_tried_again(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    def store_the_first(_: int, events: list[Envelope]) -> None:
        raise BusUnavailable("went away", stored=[events[0].id])

    bus = CallingBus(store_the_first)
    async with new_work(message_bus=bus, direct_publish=DirectPublish(tries=2, first_pause_seconds=0)) as work:
        for number in (1, 2, 3):
            register(Noted(number))
        await work.commit()

    assert [_numbers(call) for call in bus.calls] == [[1, 2, 3], [2, 3]]
    assert await rows.statuses() == ["SENT", "SENT", "NEW"]
    assert (await _held_seconds(sessions, rows.tenant))[2] <= 0


async def test_a_bus_that_stored_everything_but_went_away_is_not_asked_again(new_work: Any, rows: Rows) -> None:
    def store_all(_: int, events: list[Envelope]) -> None:
        raise BusUnavailable("went away", stored=[event.id for event in events])

    bus = CallingBus(store_all)
    async with new_work(message_bus=bus) as work:
        register(Noted(1))
        await work.commit()

    assert len(bus.calls) == 1
    assert await rows.statuses() == ["SENT"]


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), OSError("no route"), TimeoutError()])
async def test_whatever_the_bus_raises_the_commit_has_succeeded(
    new_work: Any, sessions: Sessions, rows: Rows, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with new_work(message_bus=_raising(error)) as work:
        work.session.add(Note(tenant=rows.tenant, number=1))
        register(Noted(1))
        await work.commit()

    assert await Ledger(sessions, rows.tenant).both() == ([1], [1])
    assert await rows.statuses() == ["NEW"]
    assert await _are_available(sessions, rows.tenant)
    [record] = [record for record in caplog.records if record.name == "bento_outbox"]
    assert record.levelno == logging.WARNING


async def test_events_that_cannot_be_settled_do_not_fail_the_commit(
    sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus, caplog: pytest.LogCaptureFixture
) -> None:
    opened = [sessions()]

    def open_one() -> AsyncSession:
        if not opened:
            raise OSError("too many connections")
        return opened.pop()

    async with UnitOfWork(open_one, tenant_id=rows.tenant, message_bus=memory_bus) as work:  # type: ignore[arg-type] # a factory as well
        register(Noted(1))
        await work.commit()

    assert len(memory_bus.published) == 1
    assert await rows.statuses() == ["NEW"]
    assert "published events not marked, the projector will send them again" in caplog.messages


async def test_events_with_an_ordering_key_are_neither_held_nor_published(
    new_work: Any,
    sessions: Sessions,
    rows: Rows,
    memory_bus: InMemoryMessageBus,
    projector: OutboxProjector,
    projector_bus: InMemoryMessageBus,
) -> None:
    async with new_work() as work:
        register(Noted(1), ordering_key="queue-1")
        await work.commit()
    assert memory_bus.published == []
    assert await _are_available(sessions, rows.tenant)

    async with new_work() as work:
        register(Noted(2), ordering_key="queue-1")
        register(Noted(3))
        await work.commit()

    assert _numbers(memory_bus.published) == [3]
    assert await rows.statuses() == ["NEW", "NEW", "SENT"]
    await projector.drain()
    assert _numbers(projector_bus.published) == [1, 2]


async def test_a_crash_after_the_commit_leaves_the_rows_to_the_projector_when_the_hold_is_over(
    new_work: Any, sessions: Sessions, rows: Rows, projector: OutboxProjector, projector_bus: InMemoryMessageBus
) -> None:
    policy = DirectPublish(hold_seconds=600)
    async with new_work(message_bus=_raising(asyncio.CancelledError()), direct_publish=policy) as work:
        work.session.add(Note(tenant=rows.tenant, number=1))
        register(Noted(1))
        with pytest.raises(asyncio.CancelledError):
            await work.commit()

    assert await Ledger(sessions, rows.tenant).both() == ([1], [1])
    assert await rows.statuses() == ["NEW"]
    [held] = await _held_seconds(sessions, rows.tenant)
    assert 0 < held <= policy.hold_seconds
    await projector.drain()
    assert projector_bus.published == []

    await rows.change("available_at = available_at - make_interval(secs => 600)")
    await projector.drain()
    assert _numbers(projector_bus.published) == [1]


@asynccontextmanager
async def _publishing(work: UnitOfWork, gate: asyncio.Event) -> AsyncIterator[None]:
    """While the block runs, the commit has happened and the bus has the events in hand; then it goes on."""
    committing = asyncio.create_task(work.commit())
    try:
        yield
    finally:
        gate.set()
        await committing


async def test_a_projector_beside_it_never_publishes_what_is_held(
    new_work: Any, rows: Rows, projector: OutboxProjector, projector_bus: InMemoryMessageBus
) -> None:
    called, gate = asyncio.Event(), asyncio.Event()

    def wait(*_: Any) -> Any:
        called.set()
        return gate.wait()

    bus = CallingBus(wait)
    async with new_work(message_bus=bus) as work:
        for number in range(5):
            register(Noted(number))
        async with _publishing(work, gate):
            await called.wait()
            assert await rows.statuses() == ["NEW"] * 5
            await projector.drain()

    await projector.drain()
    assert (len(bus.published), len(projector_bus.published)) == (5, 0)
    assert await rows.statuses() == ["SENT"] * 5


async def test_publishing_that_is_cut_off_leaves_the_rows_held(new_work: Any, rows: Rows) -> None:
    """The bus may have them under way: the second half of the hold is for that."""
    bus = CallingBus(lambda *_: asyncio.Event().wait())
    policy = DirectPublish(hold_seconds=0.2)
    async with new_work(message_bus=bus, direct_publish=policy) as work:
        register(Noted(1))
        await work.commit()

    [row] = await rows.all()
    assert (len(bus.calls), row.status) == (1, "NEW")
    assert (row.available_at - row.created_at).total_seconds() >= policy.hold_seconds


async def test_what_the_projector_has_sent_meanwhile_is_left_as_it_is(new_work: Any, rows: Rows) -> None:
    bus = CallingBus(lambda *_: rows.change("status = 'ERR', last_error = 'by hand'"))
    async with new_work(message_bus=bus) as work:
        register(Noted(1))
        await work.commit()

    assert [(row.status, row.last_error) for row in await rows.all()] == [("ERR", "by hand")]


async def test_an_event_that_is_in_the_table_already_is_not_published_again(
    new_work: Any, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    """Whoever wrote it first has it in hand: its own publisher, or the projector."""
    noted = Noted(1)
    async with new_work() as work:
        register(noted)
        register(noted)
        await work.commit()
    async with new_work() as work:
        register(noted)
        register(Noted(2))
        await work.commit()

    assert _numbers(memory_bus.published) == [1, 2]


async def test_a_session_that_is_committed_past_the_unit_of_work_holds_nothing(
    new_work: Any,
    sessions: Sessions,
    rows: Rows,
    memory_bus: InMemoryMessageBus,
    projector: OutboxProjector,
    projector_bus: InMemoryMessageBus,
) -> None:
    async with new_work() as work:
        register(Noted(1))
        await work.commit()
        register(Noted(2))
        await work.session.commit()

    assert _numbers(memory_bus.published) == [1]
    assert await rows.statuses() == ["SENT", "NEW"]
    assert (await _held_seconds(sessions, rows.tenant))[1] <= 0
    await projector.drain()
    assert _numbers(projector_bus.published) == [2]


async def test_a_commit_that_failed_does_not_make_the_next_one_hold(
    new_work: Any, sessions: Sessions, rows: Rows
) -> None:
    async with new_work() as work:
        register(Unstorable(1))
        with pytest.raises(DBAPIError):
            await work.commit()
        await work.session.rollback()
        register(Noted(2))
        await work.session.commit()

    assert await _are_available(sessions, rows.tenant)


@pytest.mark.parametrize("bound_by", ["session", "table"])
async def test_within_a_transaction_of_somebody_else_nothing_is_published(
    engine: AsyncEngine, sessions: Sessions, rows: Rows, memory_bus: InMemoryMessageBus, bound_by: str
) -> None:
    """It may still be rolled back."""
    async with engine.connect() as connection, connection.begin():
        bind: dict[str, Any] = {"bind": connection} if bound_by == "session" else {"binds": {outbox_table: connection}}
        joined = async_sessionmaker(**bind, join_transaction_mode="create_savepoint")
        async with UnitOfWork(joined, tenant_id=rows.tenant, message_bus=memory_bus) as work:
            register(Noted(1))
            await work.commit()

    assert memory_bus.published == []
    assert await rows.statuses() == ["NEW"]
    assert await _are_available(sessions, rows.tenant)


async def test_no_event_no_publish_and_no_statement(new_work: Any, memory_bus: InMemoryMessageBus) -> None:
    bus = CallingBus(lambda *_: None)
    async with new_work(message_bus=bus) as work:
        await work.commit()

    assert bus.calls == []


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"first_pause_seconds": -1}, {"hold_seconds": 0}])
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} .*{next(iter(wrong.values()))}"):
        DirectPublish(**wrong)


async def test_with_the_real_pulsar(
    new_work: Any, sessions: Sessions, rows: Rows, pulsar_url: str, topic: str, topics: Topics
) -> None:
    bus = PulsarMessageBus(pulsar_url, topic=topic)
    async with new_work(message_bus=bus) as work:
        for number in (1, 2, 3):
            work.session.add(Note(tenant=rows.tenant, number=number))
            register(Noted(number))
        await work.commit()
    await bus.close()

    assert await rows.statuses() == ["SENT"] * 3
    received = await topics.exactly(3, topic)
    assert [message.event_id for message in received] == [str(row.id) for row in await rows.all()]


async def test_rows_of_a_session_of_several_databases_are_settled_as_well(
    engine: AsyncEngine, sessions: Sessions, rows: Rows
) -> None:
    """It has no bind but those of its tables. What is not settled, the projector publishes again."""
    bus = InMemoryMessageBus()
    several = async_sessionmaker(binds={Note: engine, outbox_table: engine})
    async with UnitOfWork(several, tenant_id=rows.tenant, message_bus=bus) as work:
        work.session.add(Note(tenant=rows.tenant, number=1))
        register(Noted(1))
        await work.commit()
    bus.refuse("tests.notes.Noted", Refusal("not today"))
    async with UnitOfWork(several, tenant_id=rows.tenant, message_bus=bus) as work:
        register(Noted(2))
        await work.commit()

    assert _numbers(bus.published) == [1]
    assert await rows.statuses() == ["SENT", "NEW"]
    assert (await _held_seconds(sessions, rows.tenant))[1] <= 0


async def test_a_task_that_is_cancelled_while_it_publishes_leaves_the_rows_to_the_projector(
    new_work: Any, engine: AsyncEngine, sessions: Sessions, rows: Rows
) -> None:
    called = asyncio.Event()

    def hang(*_: Any) -> Any:
        called.set()
        return asyncio.Event().wait()

    async def request() -> None:
        async with new_work(message_bus=CallingBus(hang)) as work:
            work.session.add(Note(tenant=rows.tenant, number=1))
            register(Noted(1))
            await work.commit()

    task = asyncio.create_task(request())
    await called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await Ledger(sessions, rows.tenant).both() == ([1], [1])
    assert await rows.statuses() == ["NEW"]
    assert (await _held_seconds(sessions, rows.tenant))[0] > 0


async def test_an_event_that_a_hook_of_the_commit_registers_again_is_new_all_the_same(
    new_work: Any, rows: Rows, memory_bus: InMemoryMessageBus
) -> None:
    """Its row is there already, but made by this very transaction."""
    noted = Noted(1)
    async with new_work() as work:
        event.listen(work.session.sync_session, "before_commit", lambda _: register(noted), once=True)
        register(noted)
        await work.commit()

    assert {published.id for published in memory_bus.published} == {noted.event_id}
    assert await rows.statuses() == ["SENT"]
