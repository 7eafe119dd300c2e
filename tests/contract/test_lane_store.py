"""What the statements of a lane's owner do to the real tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import MetaData, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Envelope, Refusal
from bento_outbox.schema import apply_schema
from bento_outbox.table import make_outbox_table, outbox_table
from outbox_projector import Retries
from outbox_projector.flights import Flight, Lease, LeaseLost, Turn, Turned
from outbox_projector.lane_store import FLIGHT_BYTES, PostgresLaneStore
from tests.conftest import unique
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]
LATER = Retries(maximum=3, initial_seconds=3600, longest_seconds=3600)
AT_ONCE = Retries(maximum=3, initial_seconds=1e-6, longest_seconds=1e-6)
TOPIC = "the-topic"
CLAIM = Turn(limit=100, floors={TOPIC: 1})

NewStore = Callable[..., PostgresLaneStore]


def topic_of(event: Envelope) -> str:
    return event.topic or TOPIC


@pytest.fixture
def new_store(sessions: Sessions, tenant: str) -> NewStore:
    """Makes a store for the tenant's lane."""

    def make(*, owner: str = "we", **options: Any) -> PostgresLaneStore:
        settings: dict[str, Any] = {"tenant_id": tenant, "lane": 0, "retries": LATER, "topic_of": topic_of} | options
        return PostgresLaneStore(sessions, outbox_table, owner=owner, **settings)

    return make


@pytest.fixture
def store(new_store: NewStore) -> PostgresLaneStore:
    return new_store()


@pytest.fixture
async def lease(store: PostgresLaneStore) -> Lease:
    return await _acquired(store)


async def _acquired(store: PostgresLaneStore) -> Lease:
    lease = await store.acquire()
    assert lease is not None
    return lease


async def _claimed(store: PostgresLaneStore, lease: Lease, turn: Turn = CLAIM) -> Flight:
    flight = (await store.turn(lease, turn)).flight
    assert flight is not None
    return flight


# the lease


async def test_a_lane_has_one_owner(store: PostgresLaneStore, new_store: NewStore, lease: Lease) -> None:
    assert lease.epoch == 1
    assert await new_store(owner="they").acquire() is None


async def test_a_lane_that_is_given_back_is_free_at_once(
    store: PostgresLaneStore, new_store: NewStore, lease: Lease
) -> None:
    await store.release(lease)

    assert (await _acquired(new_store(owner="they"))).epoch == 2


async def test_a_lease_that_has_run_out_is_taken_over_and_its_former_owner_can_do_nothing(
    new_store: NewStore, rows: Rows
) -> None:
    [event_id] = await rows.insert_many(1)
    ours, theirs = new_store(lease_seconds=0.0), new_store(owner="they")
    former = await _acquired(ours)
    flight = await _claimed(ours, former)
    current = await _acquired(theirs)

    for turn in (Turn(settled=flight), Turn(withdrawn=[flight]), CLAIM):
        with pytest.raises(LeaseLost, match="lane 0 has another owner"):
            await ours.turn(former, turn)
    with pytest.raises(LeaseLost):
        await ours.open_flights(former)
    await ours.release(former)

    assert [flight.ids for flight in await theirs.open_flights(current)] == [[event_id]]
    assert await rows.statuses() == ["NEW"]
    assert await new_store(owner="a third").acquire() is None


async def test_each_turn_prolongs_the_lease(new_store: NewStore) -> None:
    store = new_store(lease_seconds=0.0)
    lease = await _acquired(store)
    longer = new_store(lease_seconds=60.0)

    await longer.turn(lease, Turn())

    assert await new_store(owner="they").acquire() is None


async def test_two_that_want_a_lane_at_the_same_time_get_it_one_after_the_other(new_store: NewStore) -> None:
    leases = await asyncio.gather(*(new_store(owner=f"owner-{number}").acquire() for number in range(8)))

    assert [lease for lease in leases if lease] == [Lease(lane=0, epoch=1)]


# the claim


async def test_rows_are_claimed_in_the_order_of_insertion_with_rising_ids(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    inserted = await rows.insert_many(5)

    first = await _claimed(store, lease, replace(CLAIM, limit=3))
    second = await _claimed(store, lease)

    assert (first.ids, second.ids) == (inserted[:3], inserted[3:])
    assert (first.topic, first.first_sequence, second.first_sequence) == (TOPIC, 1, 4)
    assert not first.recovered


async def test_a_row_in_a_flight_is_not_claimed_again(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    await rows.insert_many(3)
    await _claimed(store, lease)

    assert await store.turn(lease, CLAIM) == Turned()


async def test_ids_begin_above_what_the_broker_has(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    """Also when the table is behind, as after a restored backup."""
    await rows.insert_many(2)
    flight = await _claimed(store, lease, Turn(limit=1, floors={TOPIC: 501}))
    behind = await _claimed(store, lease, Turn(limit=1, floors={TOPIC: 3}))

    assert (flight.first_sequence, behind.first_sequence) == (501, 502)


async def test_nothing_is_claimed_for_a_topic_without_a_producer(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    [event_id] = await rows.insert_many(1)

    assert await store.turn(lease, Turn(limit=10)) == Turned(topic=TOPIC)
    assert (await _claimed(store, lease)).ids == [event_id]


async def test_a_flight_has_one_topic_and_each_topic_its_own_ids(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    usual, other = await rows.insert(), await rows.insert(topic="another")
    also_usual = await rows.insert()
    floors = Turn(limit=10, floors={TOPIC: 1, "another": 7})

    flights = [await _claimed(store, lease, floors) for _ in range(2)]

    assert [(flight.topic, flight.ids) for flight in flights] == [(TOPIC, [usual, also_usual]), ("another", [other])]
    assert [flight.first_sequence for flight in flights] == [1, 7]


async def test_a_flight_has_an_upper_bound_of_bytes_and_a_larger_row_flies_alone(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    half, large = {"note": "x" * (FLIGHT_BYTES // 2 - 2000)}, {"note": "x" * (FLIGHT_BYTES + 1)}
    sizes = [half, half, half, large, {}]
    inserted = [await rows.insert(payload=payload) for payload in sizes]

    flights = [(await _claimed(store, lease)).ids for _ in range(4)]

    assert flights == [inserted[:2], inserted[2:3], inserted[3:4], inserted[4:]]


async def test_a_row_that_cannot_be_read_becomes_err_and_the_others_fly(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    await rows.insert(headers=["no object"])
    good = await rows.insert()

    turned = await store.turn(lease, CLAIM)

    assert (turned.failed, turned.flight and turned.flight.ids) == (1, [good])
    assert await rows.statuses() == ["ERR", "NEW"]


async def test_only_available_rows_are_claimed(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    await rows.insert(available_at=soon)
    now = await rows.insert()

    assert (await _claimed(store, lease)).ids == [now]


async def test_a_row_that_waits_for_another_attempt_holds_back_its_aggregate_alone(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    refused = await rows.insert(aggregate_id="a")
    flight = await _claimed(store, lease)
    earlier_key = await rows.insert(aggregate_id="b", ordering_key="a")
    later, other = await rows.insert(aggregate_id="a"), await rows.insert(aggregate_id="b")
    turned = await store.turn(lease, replace(CLAIM, settled=flight, refused={refused: Refusal("not now")}))

    assert turned.retried == 1
    assert turned.flight is not None
    assert turned.flight.ids == [other]
    assert {earlier_key, later, refused}.isdisjoint(turned.flight.ids)


async def test_a_row_that_was_refused_comes_first_when_its_time_has_come(new_store: NewStore, rows: Rows) -> None:
    store = new_store(retries=AT_ONCE)
    lease = await _acquired(store)
    refused = await rows.insert(aggregate_id="a")
    flight = await _claimed(store, lease)
    later = await rows.insert(aggregate_id="a")
    await store.turn(lease, Turn(settled=flight, refused={refused: Refusal("not now")}))

    again = await _claimed(store, lease)

    assert again.ids == [refused, later]
    assert again.retry_counts[refused] == 1


async def test_a_row_that_somebody_holds_is_passed_over_with_the_later_ones_of_its_key(
    store: PostgresLaneStore, lease: Lease, rows: Rows, sessions: Sessions
) -> None:
    held, behind = await rows.insert(aggregate_id="a"), await rows.insert(aggregate_id="a")
    other = await rows.insert(aggregate_id="b")
    async with sessions() as session, session.begin():
        await session.execute(text("SELECT FROM outbox WHERE id = :id FOR UPDATE"), {"id": held})

        assert (await _claimed(store, lease)).ids == [other]

    assert (await _claimed(store, lease)).ids == [held, behind]


async def test_a_claim_reads_the_index_in_order_whatever_the_statistics_say(empty_engine: AsyncEngine) -> None:
    """The planner expects 50 rows, since there were so many when they were counted. By itself it would read the whole
    backlog, however large it is now, and sort it for each batch.
    """
    await apply_schema(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO outbox (tenant_id, aggregate_id, type, payload) "
                "SELECT 'tenant-' || n % 100, 'order-1', 'orders.Placed', '{}' FROM generate_series(1, 5000) AS n"
            )
        )
        await session.execute(text("ANALYZE outbox"))
    plans: list[dict[str, Any]] = []

    def explain(connection: Any, _cursor: Any, sql: str, values: Any, context: Any, _many: bool) -> None:
        if "candidate AS MATERIALIZED" in sql and not sql.startswith("EXPLAIN"):
            plans.append(connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", values).scalar_one()[0]["Plan"])

    event.listen(empty_engine.sync_engine, "before_cursor_execute", explain)
    store = PostgresLaneStore(
        sessions, outbox_table, tenant_id="tenant-0", lane=0, owner="we", retries=LATER, topic_of=topic_of
    )
    await store.turn(await _acquired(store), Turn(limit=1000))

    [candidate] = [step for step in _steps(plans[0]) if step.get("Subplan Name") == "CTE candidate"]
    steps = list(_steps(candidate))
    assert [step["Node Type"] for step in steps if step.get("Relation Name") == "outbox"] == ["Index Scan"]
    assert "Sort" not in {step["Node Type"] for step in steps}


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from _steps(part)


# settling


async def test_what_the_broker_has_is_sent_and_the_flight_is_over(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    await rows.insert_many(2)
    flight = await _claimed(store, lease)

    await store.turn(lease, Turn(settled=flight))

    assert await rows.statuses() == ["SENT", "SENT"]
    assert await store.open_flights(lease) == []


async def test_refused_events_wait_or_become_err_and_the_others_are_sent(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    ids = await rows.insert_many(3)
    flight = await _claimed(store, lease)
    refused = {ids[0]: Refusal("not now"), ids[2]: Refusal("never", permanent=True)}

    turned = await store.turn(lease, Turn(settled=flight, refused=refused))

    assert (turned.retried, turned.failed) == (1, 1)
    assert await rows.statuses() == ["NEW", "SENT", "ERR"]


async def test_rows_of_a_withdrawn_flight_wait_again_under_new_ids(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    ids = await rows.insert_many(2)
    flight = await _claimed(store, lease)

    again = await _claimed(store, lease, replace(CLAIM, withdrawn=[flight]))

    assert again.ids == ids
    assert again.first_sequence > flight.last_sequence


async def test_where_nothing_is_kept_what_the_broker_has_is_deleted_and_the_rest_stays(
    new_store: NewStore, rows: Rows
) -> None:
    store = new_store(keep_sent=False)
    lease = await _acquired(store)
    ids = await rows.insert_many(3)
    flight = await _claimed(store, lease)
    refused = {ids[0]: Refusal("not now"), ids[2]: Refusal("never", permanent=True)}

    turned = await store.turn(lease, Turn(settled=flight, refused=refused))

    assert (turned.retried, turned.failed) == (1, 1)
    assert [(row.id, row.status) for row in await rows.all()] == [(ids[0], "NEW"), (ids[2], "ERR")]
    assert await store.open_flights(lease) == []


async def test_rows_are_deleted_in_the_transaction_that_ends_their_flight(new_store: NewStore, rows: Rows) -> None:
    store = new_store(keep_sent=False)
    lease = await _acquired(store)
    await rows.insert_many(2)
    flight = await _claimed(store, lease)
    defect = replace(flight, retry_counts={})

    with pytest.raises(KeyError):
        await store.turn(lease, Turn(settled=defect, refused={flight.ids[0]: Refusal("not now")}))

    assert await rows.statuses() == ["NEW", "NEW"]
    assert [found.ids for found in await store.open_flights(lease)] == [flight.ids]


# after a crash


async def test_the_next_owner_finds_the_same_flights_in_their_order(
    store: PostgresLaneStore, new_store: NewStore, lease: Lease, rows: Rows
) -> None:
    await rows.insert_many(3)
    await rows.insert(topic="another")
    floors = replace(CLAIM, floors={TOPIC: 1, "another": 1})
    flights = [await _claimed(store, lease, replace(floors, limit=limit)) for limit in (2, 1, 1)]
    await store.release(lease)

    next_owner = new_store(owner="they")
    found = await next_owner.open_flights(await _acquired(next_owner))

    assert found == [replace(flight, recovered=True) for flight in flights]


async def test_a_flight_stays_cut_as_it_was_whatever_the_next_owner_is_set_to(new_store: NewStore, rows: Rows) -> None:
    await rows.insert_many(2)
    store = new_store(by_key=True)
    lease = await _acquired(store)
    flight = await _claimed(store, lease)
    await store.release(lease)

    next_owner = new_store(owner="they", by_key=False)
    found = await next_owner.open_flights(await _acquired(next_owner))

    assert flight.by_key
    assert found == [replace(flight, recovered=True)]


async def test_a_turn_that_fails_changes_nothing(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    await rows.insert_many(1)
    flight = await _claimed(store, lease)
    defect = replace(flight, retry_counts={})

    with pytest.raises(KeyError):
        await store.turn(lease, Turn(settled=defect, refused={flight.ids[0]: Refusal("not now")}))

    assert await rows.statuses() == ["NEW"]
    assert [found.ids for found in await store.open_flights(lease)] == [flight.ids]


@pytest.mark.parametrize(("name", "schema"), [("t" * 42, None), ("Order Events", "Shop"), ("100%", None)])
async def test_any_name_of_the_table(empty_engine: AsyncEngine, name: str, schema: str | None) -> None:
    if schema:
        async with empty_engine.begin() as connection:
            await connection.execute(text(f'CREATE SCHEMA "{schema}"'))
    await apply_schema(empty_engine, table=name, schema=schema)
    table = make_outbox_table(MetaData(), name=name, schema=schema)
    store = PostgresLaneStore(
        async_sessionmaker(empty_engine),
        table,
        tenant_id="acme",
        lane=0,
        owner="we",
        retries=LATER,
        topic_of=topic_of,
    )
    lease = await _acquired(store)
    async with empty_engine.begin() as connection:
        values = {"tenant_id": "acme", "aggregate_id": unique("a"), "type": "t", "payload": {}}
        event_id: UUID = (await connection.execute(table.insert().values(values).returning(table.c.id))).scalar_one()

    flight = await _claimed(store, lease)
    await store.turn(lease, Turn(settled=flight))

    assert flight.ids == [event_id]
    assert await store.open_flights(lease) == []
