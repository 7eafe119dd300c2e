"""Which rows of the real table fall to which lane, and which wait for an earlier one of their key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import Refusal
from bento_outbox.failed_events import FailedEvents
from outbox_projector import Retries
from outbox_projector.flights import Lease, Turn, Turned
from outbox_projector.lane_store import PostgresLaneStore
from tests.support.lanes import CLAIM, acquired, claimed
from tests.support.rows import Rows

Sessions = async_sessionmaker[AsyncSession]
NewStore = Callable[..., PostgresLaneStore]
AT_ONCE = Retries(maximum=3, initial_seconds=1e-6, longest_seconds=1e-6)


# lanes


async def test_four_lanes_share_all_rows_and_each_key_is_in_one_of_them(
    store: PostgresLaneStore, sessions: Sessions, rows: Rows, tenant: str
) -> None:
    inserted = await rows.insert_many(200, aggregates=50)
    for number in range(20):
        key = f"customer-{number % 5}"
        inserted.append(await rows.insert(aggregate_id=f"order-{number}", ordering_key=key))

    flights = []
    for lane in range(4):
        lease = await acquired(sessions, tenant, lane=lane, lanes=4)
        flights.append(await claimed(store, lease, replace(CLAIM, limit=1000)))

    place = {event_id: number for number, event_id in enumerate(inserted)}
    for flight in flights:
        assert flight.ids == sorted(flight.ids, key=place.__getitem__)
    assert sorted(event_id for flight in flights for event_id in flight.ids) == sorted(inserted)
    keys = [{event.ordering_key or event.aggregate_id for event in flight.events} for flight in flights]
    assert all(keys)
    assert sum(map(len, keys)) == len(set().union(*keys)) == 55


async def test_lanes_have_ids_and_open_flights_of_their_own(
    store: PostgresLaneStore, sessions: Sessions, rows: Rows, tenant: str
) -> None:
    await rows.insert_many(100, aggregates=50)
    leases = [await acquired(sessions, tenant, lane=lane, lanes=2) for lane in range(2)]

    flights = [await claimed(store, lease) for lease in leases]

    assert [flight.first_sequence for flight in flights] == [1, 1]
    found = [await store.open_flights(lease) for lease in leases]
    assert [[flight.ids for flight in of_lane] for of_lane in found] == [[flight.ids] for flight in flights]
    await store.turn(leases[0], Turn(settled=flights[0]))
    assert [len(await store.open_flights(lease)) for lease in leases] == [0, 1]


# order


async def test_a_row_that_waits_for_another_attempt_holds_back_its_aggregate_alone(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    refused = await rows.insert(aggregate_id="a")
    flight = await claimed(store, lease)
    earlier_key = await rows.insert(aggregate_id="b", ordering_key="a")
    later, other = await rows.insert(aggregate_id="a"), await rows.insert(aggregate_id="b")
    turned = await store.turn(lease, replace(CLAIM, settled=flight, refused={refused: Refusal("not now")}))

    assert turned.retried == 1
    assert turned.flight is not None
    assert turned.flight.ids == [other]
    assert {earlier_key, later, refused}.isdisjoint(turned.flight.ids)


async def test_a_row_that_was_refused_comes_first_when_its_time_has_come(
    new_store: NewStore, lease: Lease, rows: Rows
) -> None:
    store = new_store(retries=AT_ONCE)
    refused = await rows.insert(aggregate_id="a")
    flight = await claimed(store, lease)
    later = await rows.insert(aggregate_id="a")
    await store.turn(lease, Turn(settled=flight, refused={refused: Refusal("not now")}))

    again = await claimed(store, lease)

    assert again.ids == [refused, later]
    assert again.retry_counts[refused] == 1


async def test_a_row_that_somebody_holds_is_passed_over_with_the_later_ones_of_its_key(
    store: PostgresLaneStore, lease: Lease, rows: Rows, sessions: Sessions
) -> None:
    held, behind = await rows.insert(aggregate_id="a"), await rows.insert(aggregate_id="a")
    other = await rows.insert(aggregate_id="b")
    async with sessions() as session, session.begin():
        await session.execute(text("SELECT FROM outbox WHERE id = :id FOR UPDATE"), {"id": held})

        assert (await claimed(store, lease)).ids == [other]

    assert (await claimed(store, lease)).ids == [held, behind]


async def test_without_order_a_row_that_waits_holds_back_nothing(new_store: NewStore, lease: Lease, rows: Rows) -> None:
    store = new_store(ordered=False)
    refused = await rows.insert(aggregate_id="a")
    flight = await claimed(store, lease)
    later = await rows.insert(aggregate_id="a")

    turned = await store.turn(lease, replace(CLAIM, settled=flight, refused={refused: Refusal("not now")}))

    assert turned.flight is not None
    assert turned.flight.ids == [later]


async def test_without_order_a_row_that_somebody_holds_is_passed_over_alone(
    new_store: NewStore, lease: Lease, rows: Rows, sessions: Sessions
) -> None:
    store = new_store(ordered=False)
    held, behind = await rows.insert(aggregate_id="a"), await rows.insert(aggregate_id="a")
    async with sessions() as session, session.begin():
        await session.execute(text("SELECT FROM outbox WHERE id = :id FOR UPDATE"), {"id": held})

        assert (await claimed(store, lease)).ids == [behind]

    assert (await claimed(store, lease)).ids == [held]


# a failed event that holds its key


async def test_a_failed_row_is_overtaken_by_the_later_ones_of_its_key(
    store: PostgresLaneStore, lease: Lease, rows: Rows
) -> None:
    await rows.insert(aggregate_id="a", status="ERR")
    later = await rows.insert(aggregate_id="a")

    assert (await claimed(store, lease)).ids == [later]


async def test_where_keys_are_held_a_failed_row_holds_back_the_later_ones_of_its_key_alone(
    new_store: NewStore, lease: Lease, rows: Rows
) -> None:
    earlier = await rows.insert(aggregate_id="a")
    await rows.insert(aggregate_id="a", status="ERR")
    await rows.insert(aggregate_id="a")
    await rows.insert(aggregate_id="b", ordering_key="a")
    other, other_key = await rows.insert(aggregate_id="b"), await rows.insert(aggregate_id="a", ordering_key="b")

    flight = await claimed(new_store(hold_aggregates=True), lease)

    assert flight.ids == [earlier, other, other_key]


@pytest.mark.parametrize(("way_out", "goes"), [("requeue", [0, 1]), ("discard", [1])])
async def test_a_held_key_goes_on_when_its_failed_row_was_dealt_with(
    new_store: NewStore, lease: Lease, rows: Rows, engine: AsyncEngine, way_out: str, goes: list[int]
) -> None:
    store = new_store(hold_aggregates=True)
    both = [await rows.insert(), await rows.insert()]
    flight = await claimed(store, lease, replace(CLAIM, limit=1))
    never = {both[0]: Refusal("never", permanent=True)}
    assert await store.turn(lease, replace(CLAIM, settled=flight, refused=never)) == Turned(failed=1)

    assert await getattr(FailedEvents(engine), way_out)(rows.tenant, both[:1]) == 1

    assert (await claimed(store, lease)).ids == [both[number] for number in goes]


async def test_where_keys_are_held_an_unreadable_row_holds_its_key_at_once(
    new_store: NewStore, lease: Lease, rows: Rows
) -> None:
    store = new_store(hold_aggregates=True)
    await rows.insert(aggregate_id="a", headers=["no object"])
    await rows.insert(aggregate_id="a")
    other = await rows.insert(aggregate_id="b")

    turned = await store.turn(lease, CLAIM)

    assert (turned.failed, turned.flight and turned.flight.ids) == (1, [other])
    assert (await store.turn(lease, CLAIM)) == Turned()
