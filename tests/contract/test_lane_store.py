"""What a lane's owner holds, settles, and finds of its predecessor, on the real tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import randbytes
from typing import Any

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Refusal
from bento_outbox.schema import apply_schema, validate_schema
from bento_outbox.sql_files import LONGEST_NAME
from bento_outbox.table import make_outbox_table, outbox_table
from outbox_projector import Retries
from outbox_projector.database import Database, FixedUrl
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Lease, LeaseLost, Turn
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.sessions import borrowed
from outbox_projector.store import Store
from tests.support.envelopes import envelope
from tests.support.lanes import CLAIM, TOPIC, acquired, claimed, topic_of
from tests.support.rows import Rows, write
from tests.support.watched import Planned, steps_of

Sessions = async_sessionmaker[AsyncSession]
NewStore = Callable[..., PostgresLaneStore]


# the hold


async def test_a_former_owner_can_do_nothing(
    store: PostgresLaneStore, sessions: Sessions, rows: Rows, tenant: str
) -> None:
    [event_id] = await rows.insert_many(1)
    former = await acquired(sessions, tenant)
    flight = await claimed(store, former)
    current = await acquired(sessions, tenant)

    for turn in (Turn(settled=flight), Turn(withdrawn=[flight]), CLAIM):
        with pytest.raises(LeaseLost, match="lane 0 has another owner"):
            await store.turn(former, turn)
    with pytest.raises(LeaseLost):
        await store.open_flights(former)

    assert [flight.ids for flight in await store.open_flights(current)] == [[event_id]]
    assert await rows.statuses() == ["NEW"]


@pytest.mark.parametrize("with_what", ["turn", "look for open flights"])
async def test_whatever_the_owner_does_prolongs_the_lease(
    store: PostgresLaneStore, sessions: Sessions, tenant: str, with_what: str
) -> None:
    lease = await acquired(sessions, tenant, seconds=0.0)

    if with_what == "turn":
        await store.turn(lease, Turn())
    else:
        await store.open_flights(lease)

    assert await _is_leased_for(sessions, tenant, at_least=5, at_most=10)


async def test_an_owner_that_is_going_to_rest_has_the_lane_for_longer(
    store: PostgresLaneStore, sessions: Sessions, tenant: str
) -> None:
    lease = await acquired(sessions, tenant)

    await store.turn(lease, Turn(rest=3600))

    assert await _is_leased_for(sessions, tenant, at_least=3600, at_most=8000)


@pytest.mark.parametrize("change", ["DELETE FROM outbox", "UPDATE outbox SET headers = '[]'"])
async def test_a_flight_of_which_nothing_is_left_that_could_be_sent_is_over(
    store: PostgresLaneStore, sessions: Sessions, rows: Rows, tenant: str, change: str
) -> None:
    """Else it would keep the number of lanes from ever changing."""
    await rows.insert_many(2)
    await claimed(store, await acquired(sessions, tenant))
    async with sessions.begin() as session:
        await session.execute(text(f"{change} WHERE tenant_id = :tenant"), {"tenant": tenant})

    assert await store.open_flights(await acquired(sessions, tenant)) == []

    async with sessions() as session:
        flying = text("SELECT count(*) FROM outbox_flight WHERE tenant_id = :tenant")
        assert (await session.execute(flying, {"tenant": tenant})).scalar_one() == 0


async def _is_leased_for(sessions: Sessions, tenant: str, *, at_least: int, at_most: int) -> bool:
    """By the clock of the database. at_least, at_most: seconds."""
    left = (
        "SELECT extract(epoch FROM lease_until - clock_timestamp()) BETWEEN :at_least AND :at_most "
        "FROM outbox_lane WHERE tenant_id = :tenant"
    )
    async with sessions() as session:
        values = {"tenant": tenant, "at_least": at_least, "at_most": at_most}
        found: bool = (await session.execute(text(left), values)).scalar_one()
    return found


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
    planned = Planned(borrowed(sessions), "candidate AS MATERIALIZED")
    store = PostgresLaneStore(planned, outbox_table, tenant_id="tenant-0", retries=Retries(), topic_of=topic_of)
    await store.turn(await acquired(sessions, "tenant-0"), Turn(limit=1000))

    [candidate] = [step for step in steps_of(planned.plans[0]) if step.get("Subplan Name") == "CTE candidate"]
    steps = list(steps_of(candidate))
    assert [step["Node Type"] for step in steps if step.get("Relation Name") == "outbox"] == ["Index Scan"]
    assert "Sort" not in {step["Node Type"] for step in steps}


async def test_a_claim_touches_no_more_than_a_batch_though_nothing_waited_when_rows_were_counted(
    empty_engine: AsyncEngine,
) -> None:
    """As after a quiet night: the planner takes the index of what waits for empty, and all that is read from it, or
    joined with it, for nothing."""
    await apply_schema(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    insert = (
        "INSERT INTO outbox (tenant_id, aggregate_id, type, payload, status, retry_cnt, available_at) "
        "SELECT 'acme', 'order-' || n, 'orders.Placed', '{}', :status, :retry_cnt, now() + :held * interval '1 hour' "
        "FROM generate_series(1, 3000) AS n"
    )
    async with sessions.begin() as session:
        await session.execute(text(insert), {"status": "SENT", "retry_cnt": 0, "held": 0})
        await session.execute(text("ANALYZE outbox"))
    async with sessions.begin() as session:
        await session.execute(text(insert), {"status": "NEW", "retry_cnt": 1, "held": 1})
        await session.execute(
            text(insert.replace("'order-'", "'other-'")), {"status": "NEW", "retry_cnt": 0, "held": 0}
        )
    planned = Planned(borrowed(sessions), "candidate AS MATERIALIZED", options="ANALYZE, TIMING OFF")
    store = PostgresLaneStore(planned, outbox_table, tenant_id="acme", retries=Retries(), topic_of=topic_of)
    turned = await store.turn(await acquired(sessions, "acme"), Turn(limit=100, floors={TOPIC: 1}))

    assert turned.flight is not None
    assert len(turned.flight.events) == 100
    # On the way to those that may go now it passes the 3,000 that wait for another attempt; and it sees one more.
    assert max(map(rows_touched, steps_of(planned.plans[0]))) == 3101


def rows_touched(step: dict[str, Any]) -> float:
    """By one step of a plan that was run."""
    each = step["Actual Rows"] + step.get("Rows Removed by Filter", 0) + step.get("Rows Removed by Join Filter", 0)
    return float(each * step["Actual Loops"])


async def test_a_table_that_is_altered_meanwhile_costs_a_turn(empty_engine: AsyncEngine) -> None:
    await apply_schema(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    database = Database(FixedUrl(empty_engine.url.set(drivername="postgresql").render_as_string(hide_password=False)))
    store = PostgresLaneStore(database, outbox_table, tenant_id="acme", retries=Retries(), topic_of=topic_of)
    lease = await acquired(sessions, "acme")
    await store.turn(lease, CLAIM)
    async with empty_engine.begin() as connection:
        await connection.execute(text("ALTER TABLE outbox ALTER COLUMN type TYPE varchar(200)"))

    with pytest.raises(DatabaseUnavailable, match="was altered meanwhile"):
        await store.turn(lease, CLAIM)
    await store.turn(lease, CLAIM)
    await database.close()


# settling


async def test_what_the_broker_has_is_sent_and_the_flight_is_over(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    await rows.insert_many(2)
    flight = await claimed(store, lease)

    await store.turn(lease, Turn(settled=flight))

    assert await rows.statuses() == ["SENT", "SENT"]
    assert await store.open_flights(lease) == []


async def test_refused_events_wait_or_become_err_and_the_others_are_sent(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    ids = await rows.insert_many(3)
    flight = await claimed(store, lease)
    refused = {ids[0]: Refusal("not now"), ids[2]: Refusal("never", permanent=True)}

    turned = await store.turn(lease, Turn(settled=flight, refused=refused))

    assert (turned.retried, turned.failed) == (1, 1)
    assert await rows.statuses() == ["NEW", "SENT", "ERR"]


@pytest.mark.parametrize("column", ["aggregate_id", "ordering_key"])
async def test_an_event_with_a_very_long_key_may_fail_as_well(
    new_store: NewStore, lease: Lease, rows: Rows, column: str
) -> None:
    """An entry of an index would have no room for the key, and failed rows are found by theirs."""
    store, key = new_store(hold_aggregates=True), randbytes(4000).hex()
    failing = await rows.insert(**{column: key})
    flight = await claimed(store, lease)
    held, other = await rows.insert(**{column: key}), await rows.insert()

    never = {failing: Refusal("never", permanent=True)}
    turned = await store.turn(lease, replace(CLAIM, settled=flight, refused=never))

    assert (turned.failed, turned.flight and turned.flight.ids) == (1, [other])
    assert [(row.id, row.status) for row in await rows.all()][:2] == [(failing, "ERR"), (held, "NEW")]


async def test_sent_rows_have_a_time_and_no_error(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    await rows.insert(last_error="was refused once", retry_cnt=1)
    flight = await claimed(store, lease)
    waiting = await rows.insert()

    await store.turn(lease, Turn(settled=flight))

    first, second = await rows.all()
    assert (first.status, first.last_error, first.retry_cnt) == ("SENT", None, 1)
    assert first.sent_at >= first.created_at
    assert (second.id, second.status, second.sent_at) == (waiting, "NEW", None)


async def test_rows_of_a_withdrawn_flight_wait_again_under_new_ids(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    ids = await rows.insert_many(2)
    flight = await claimed(store, lease)

    again = await claimed(store, lease, replace(CLAIM, withdrawn=[flight]))

    assert again.ids == ids
    assert again.first_sequence > flight.last_sequence


async def test_where_nothing_is_kept_what_the_broker_has_is_deleted_and_the_rest_stays(
    new_store: NewStore, lease: Lease, rows: Rows
) -> None:
    store = new_store(keep_sent=False)
    ids = await rows.insert_many(3)
    flight = await claimed(store, lease)
    refused = {ids[0]: Refusal("not now"), ids[2]: Refusal("never", permanent=True)}

    turned = await store.turn(lease, Turn(settled=flight, refused=refused))

    assert (turned.retried, turned.failed) == (1, 1)
    assert [(row.id, row.status) for row in await rows.all()] == [(ids[0], "NEW"), (ids[2], "ERR")]
    assert await store.open_flights(lease) == []


async def test_rows_are_deleted_in_the_transaction_that_ends_their_flight(
    new_store: NewStore, lease: Lease, rows: Rows
) -> None:
    store = new_store(keep_sent=False)
    await rows.insert_many(2)
    flight = await claimed(store, lease)
    defect = replace(flight, retry_counts={})

    with pytest.raises(KeyError):
        await store.turn(lease, Turn(settled=defect, refused={flight.ids[0]: Refusal("not now")}))

    assert await rows.statuses() == ["NEW", "NEW"]
    assert [found.ids for found in await store.open_flights(lease)] == [flight.ids]


# after a crash


async def test_the_next_owner_finds_the_same_flights_in_their_order(
    store: PostgresLaneStore, sessions: Sessions, lease: Lease, rows: Rows, tenant: str
) -> None:
    await rows.insert_many(3)
    await rows.insert(topic="another")
    floors = replace(CLAIM, floors={TOPIC: 1, "another": 1})
    flights = [await claimed(store, lease, replace(floors, limit=limit)) for limit in (2, 1, 1)]

    found = await store.open_flights(await acquired(sessions, tenant))

    assert found == [replace(flight, recovered=True) for flight in flights]


async def test_a_flight_stays_cut_as_it_was_whatever_the_next_owner_is_set_to(
    new_store: NewStore, lease: Lease, rows: Rows, sessions: Sessions, tenant: str
) -> None:
    await rows.insert_many(2)
    flight = await claimed(new_store(by_key=True), lease)

    found = await new_store(by_key=False).open_flights(await acquired(sessions, tenant))

    assert flight.by_key
    assert found == [replace(flight, recovered=True)]


async def test_a_turn_that_fails_changes_nothing(store: PostgresLaneStore, lease: Lease, rows: Rows) -> None:
    await rows.insert_many(1)
    flight = await claimed(store, lease)
    defect = replace(flight, retry_counts={})

    with pytest.raises(KeyError):
        await store.turn(lease, Turn(settled=defect, refused={flight.ids[0]: Refusal("not now")}))

    assert await rows.statuses() == ["NEW"]
    assert [found.ids for found in await store.open_flights(lease)] == [flight.ids]


# other names


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("events", None),
        ("events", "shop"),
        ("Order Events", "My Shop"),
        ("select", "user"),
        ('quo"ted', 'quo"ted'),
        ("half :late", "100%"),
        ("100%", None),
        ("back\\slash \\1", "{braces}"),
        ("t" * LONGEST_NAME, "s" * 63),
    ],
)
async def test_any_name_that_postgres_takes(
    empty_engine: AsyncEngine, tenant: str, name: str, schema: str | None
) -> None:
    if schema:
        quoted = empty_engine.dialect.identifier_preparer.quote_schema(schema)
        async with empty_engine.begin() as connection:
            await connection.exec_driver_sql(f"CREATE SCHEMA {quoted}")
    await apply_schema(empty_engine, table=name, schema=schema)
    await validate_schema(empty_engine, table=name, schema=schema)
    table, sessions = make_outbox_table(MetaData(), name=name, schema=schema), async_sessionmaker(empty_engine)
    store = PostgresLaneStore(
        borrowed(sessions), table, tenant_id=tenant, retries=Retries(), topic_of=topic_of, hold_aggregates=True
    )
    sent, refused = envelope(tenant_id=tenant), envelope(tenant_id=tenant)
    async with sessions.begin() as session:
        await write(session, sent, refused, table=table)

    lease = await acquired(sessions, tenant, table=table)
    flight = await claimed(store, lease)
    assert [found.ids for found in await store.open_flights(lease)] == [[sent.id, refused.id]] == [flight.ids]
    await store.turn(lease, Turn(settled=flight, refused={refused.id: Refusal("no")}))

    backlog = await Store(table, tenant).measure(borrowed(sessions))
    assert (backlog.pending, backlog.errors) == (1, 0)
    assert await Rows(sessions, tenant, table).statuses() == ["SENT", "NEW"]
    assert await store.open_flights(lease) == []
