"""What the statements about leases do to the real tables: the processes of a tenant, and who owns which lane."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox.channels import channel_of
from bento_outbox.schema import apply_schema
from bento_outbox.table import make_outbox_table, outbox_table
from outbox_projector.database import transaction
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.flights import Lease, LeaseLost, Turn
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.postgres_leases import MEMBER_SECONDS, MOST_LANES, PostgresLeases
from outbox_projector.sessions import borrowed
from outbox_projector.sharing import Fleet
from tests.conftest import unique
from tests.support.lanes import CLAIM, TOPIC, blocked, claimed
from tests.support.rows import Rows
from tests.support.waiting import eventually
from tests.support.watched import Watched

Sessions = async_sessionmaker[AsyncSession]
Member = Callable[..., PostgresLeases]


@pytest.fixture
def member(sessions: Sessions, tenant: str) -> Member:
    """Makes a process of the tenant, unheard of until it beats."""

    def make(name: str, *, lanes: int = 1) -> PostgresLeases:
        return PostgresLeases(borrowed(sessions), outbox_table, tenant_id=tenant, name=name, lanes=lanes)

    return make


@pytest.fixture
async def we(member: Member) -> PostgresLeases:
    """A process, the first of its tenant, which wants 4 lanes."""
    made = member("we", lanes=4)
    await _seen(made)
    return made


async def _seen(leases: PostgresLeases) -> Fleet:
    fleet = await leases.beat()
    assert fleet is not None
    return fleet


async def _acquired(leases: PostgresLeases, lane: int = 0, *, seconds: float = 60.0) -> Lease:
    lease = await leases.acquire(lane, seconds=seconds)
    assert lease is not None
    return lease


async def _execute(sessions: Sessions, statement: str, **values: object) -> None:
    async with sessions.begin() as session:
        await session.execute(text(statement), values)


# beat


async def test_whether_any_event_waits_is_seen_also_one_for_later(
    member: Member, we: PostgresLeases, rows: Rows
) -> None:
    assert not (await _seen(we)).waiting

    await rows.insert(sql={"available_at": "now() + interval '1 hour'"})
    assert (await _seen(we)).waiting

    await rows.change("status = 'ERR'")
    assert not (await _seen(we)).waiting


async def test_who_comes_says_so_once(member: Member, database_url: str, tenant: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(channel_of(outbox_table, tenant), lambda *args: heard.put_nowait(args[3]))
    newcomer = member("newcomer")

    for _ in range(2):
        await _seen(newcomer)
    await connection.execute("SELECT pg_notify($1, 'end')", channel_of(outbox_table, tenant))

    assert [await heard.get(), await heard.get()] == ["", "end"]
    await connection.close()


async def test_a_beat_is_one_statement(sessions: Sessions, tenant: str) -> None:
    """An idle tenant costs little else."""
    watched = Watched(borrowed(sessions))
    we = PostgresLeases(watched, outbox_table, tenant_id=tenant, name="we", lanes=1)
    await _seen(we)  # the first one also tells others of us
    watched.statements.clear()

    await _seen(we)

    assert len(watched.statements) == 1


async def test_the_first_process_makes_the_layout_that_it_wants(member: Member) -> None:
    fleet = await _seen(member("we", lanes=3))

    assert (fleet.lanes, fleet.wanted, fleet.members, fleet.rank) == (3, 3, 1, 0)
    assert [*fleet.taken, *fleet.expired, *fleet.flying] == []


async def test_members_are_ranked_by_age_and_the_youngest_says_how_many_lanes(member: Member) -> None:
    members = [member(name, lanes=lanes) for name, lanes in (("b", 2), ("a", 2), ("c", 5))]
    for each in members:
        await _seen(each)

    # Those who are heard of again do not become younger.
    seen = [await _seen(each) for each in members]

    assert [fleet.rank for fleet in seen] == [0, 1, 2]
    assert {(fleet.lanes, fleet.wanted, fleet.members) for fleet in seen} == {(2, 5, 3)}


async def test_a_wish_that_was_changed_counts_under_the_same_name(member: Member, we: PostgresLeases) -> None:
    fleet = await _seen(member("we", lanes=2))

    assert (fleet.lanes, fleet.wanted, fleet.members) == (4, 2, 1)


async def test_a_member_that_was_not_heard_of_is_not_counted_until_it_is(
    member: Member, sessions: Sessions, we: PostgresLeases, tenant: str
) -> None:
    other = member("other", lanes=2)
    await _seen(other)
    await _age(sessions, tenant, "other", seconds=MEMBER_SECONDS + 1)

    assert ((fleet := await _seen(we)).members, fleet.wanted) == (1, 4)
    assert ((fleet := await _seen(other)).members, fleet.rank) == (2, 1)


async def test_a_process_counts_itself_however_long_it_was_silent(
    sessions: Sessions, we: PostgresLeases, tenant: str
) -> None:
    await _age(sessions, tenant, "we", seconds=3 * MEMBER_SECONDS)

    assert ((fleet := await _seen(we)).members, fleet.rank) == (1, 0)


async def _age(sessions: Sessions, tenant: str, name: str, *, seconds: float) -> None:
    statement = (
        "UPDATE outbox_member SET beat_at = beat_at - make_interval(secs => :seconds) "
        "WHERE tenant_id = :tenant AND name = :name"
    )
    await _execute(sessions, statement, seconds=seconds, tenant=tenant, name=name)


async def test_each_sees_the_lanes_of_the_others_and_not_its_own(member: Member, we: PostgresLeases) -> None:
    other = member("other", lanes=4)
    await _acquired(we, 0)
    await _acquired(we, 1, seconds=0.0)
    await _acquired(other, 2)
    given_back = await _acquired(other, 3)
    await other.release(given_back)

    ours, theirs = await _seen(we), await _seen(other)

    assert (list(ours.taken), list(ours.expired)) == ([2], [])
    assert (list(theirs.taken), list(theirs.expired)) == ([0], [1])


async def test_lanes_with_flights_are_seen_whoever_owns_them(
    we: PostgresLeases, store: PostgresLaneStore, rows: Rows
) -> None:
    await rows.insert_many(20, aggregates=20)
    for _ in range(2):
        await claimed(store, await _acquired(we, 2), Turn(limit=1, floors={TOPIC: 1}))

    assert list((await _seen(we)).flying) == [2]


async def test_other_tenants_have_members_and_lanes_of_their_own(
    member: Member, sessions: Sessions, we: PostgresLeases
) -> None:
    other = PostgresLeases(borrowed(sessions), outbox_table, tenant_id=unique("tenant"), name="we", lanes=7)
    assert (await _seen(other)).lanes == 7
    await _acquired(other)

    assert ((fleet := await _seen(we)).members, fleet.lanes, list(fleet.taken)) == (1, 4, [])
    await _acquired(member("another"))


async def test_a_layout_that_somebody_makes_at_the_very_moment_is_asked_for_again(
    member: Member, sessions: Sessions, tenant: str
) -> None:
    we = member("we", lanes=4)
    async with sessions.begin() as session:
        await session.execute(text("INSERT INTO outbox_layout VALUES (:tenant, 2)"), {"tenant": tenant})
        beat = asyncio.create_task(we.beat())
        await eventually(lambda: blocked(sessions))

    assert await beat is None
    assert ((fleet := await _seen(we)).lanes, fleet.wanted, fleet.members) == (2, 4, 1)


async def test_of_several_first_ones_at_once_one_makes_the_layout(member: Member) -> None:
    members = [member(f"member-{number}", lanes=number + 1) for number in range(8)]

    await asyncio.gather(*(each.beat() for each in members))

    seen = [await _seen(each) for each in members]
    assert sorted(fleet.rank for fleet in seen) == list(range(8))
    [(lanes, members_seen)] = {(fleet.lanes, fleet.members) for fleet in seen}
    assert (1 <= lanes <= 8, members_seen) == (True, 8)


@pytest.mark.parametrize("lanes", [0, MOST_LANES + 1])
def test_a_number_of_lanes_that_cannot_be_is_refused(member: Member, lanes: int) -> None:
    with pytest.raises(ValueError, match=f"lanes is {lanes}, but a tenant has from 1 to 64"):
        member("we", lanes=lanes)


# acquire, release


async def test_a_lane_has_one_owner(member: Member, we: PostgresLeases) -> None:
    lease = await _acquired(we, 3)

    assert (lease.lane, lease.lanes) == (3, 4)
    assert await member("they").acquire(3, seconds=60.0) is None


async def test_lanes_of_other_tenants_and_databases_have_another_origin(
    we: PostgresLeases, member: Member, sessions: async_sessionmaker[AsyncSession]
) -> None:
    ours = await _acquired(we)
    await we.release(ours)
    again = await _acquired(member("they"))
    other = PostgresLeases(borrowed(sessions), outbox_table, tenant_id=unique("other"), name="we", lanes=1)
    await _seen(other)

    assert ours.origin == again.origin != ""
    assert (await _acquired(other)).origin not in ("", ours.origin)


async def test_a_lane_that_is_given_back_is_free_at_once(member: Member, we: PostgresLeases) -> None:
    ours = await _acquired(we)
    await we.release(ours)

    assert (await _acquired(member("they"))).epoch > ours.epoch


async def test_a_lease_that_has_run_out_goes_to_whoever_comes(member: Member, we: PostgresLeases) -> None:
    ours = await _acquired(we, seconds=0.0)

    assert (await _acquired(member("they"))).epoch > ours.epoch
    assert await we.acquire(0, seconds=60.0) is None


async def test_a_lane_whose_owner_was_lost_within_a_transaction_goes_to_the_next(
    member: Member, we: PostgresLeases, sessions: Sessions, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a machine without power or network the server hears nothing: not even that the connection has ended."""
    monkeypatch.setattr("outbox_projector.database.SILENT_SECONDS", 0.1)
    await _acquired(we, seconds=0.0)

    async def is_lost_and_comes_back() -> None:
        async with transaction(borrowed(sessions)) as connection:
            await connection.execute("UPDATE outbox_lane SET owner = 'we' WHERE tenant_id = $1", tenant)
            assert await member("they").acquire(0, seconds=60.0)
            await connection.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        await is_lost_and_comes_back()


async def test_a_process_that_starts_again_under_its_name_has_its_lane_at_once(
    member: Member, we: PostgresLeases
) -> None:
    before = await _acquired(we)

    assert (await _acquired(member("we"))).epoch > before.epoch


async def test_an_epoch_that_a_failover_has_undone_does_not_come_again(
    member: Member, we: PostgresLeases, sessions: async_sessionmaker[AsyncSession], tenant: str
) -> None:
    """The standby that took over had not got our last commit; we still hold its epoch for ours."""
    first = await _acquired(member("somebody"), seconds=0.0)
    undone = await _acquired(we)
    async with sessions.begin() as session:
        back = "UPDATE outbox_lane SET epoch = :epoch, owner = NULL WHERE tenant_id = :tenant AND lane = 0"
        await session.execute(text(back), {"epoch": first.epoch, "tenant": tenant})

    assert (await _acquired(member("they"))).epoch > undone.epoch
    assert not await we.release(undone)


async def test_a_former_owner_gives_nothing_back(member: Member, we: PostgresLeases) -> None:
    former = await _acquired(we, seconds=0.0)
    await _acquired(member("they"))

    await we.release(former)

    assert await member("a third").acquire(0, seconds=60.0) is None


async def test_there_are_no_lanes_beyond_the_layout(we: PostgresLeases) -> None:
    assert await we.acquire(4, seconds=60.0) is None
    assert (await _acquired(we, 3)).lanes == 4


async def test_before_there_is_a_layout_there_is_no_lane(member: Member) -> None:
    assert await member("we").acquire(0, seconds=60.0) is None


async def test_of_several_that_want_a_lane_at_once_one_gets_it(member: Member, we: PostgresLeases) -> None:
    contenders = [member(f"owner-{number}") for number in range(8)]

    leases = await asyncio.gather(*(each.acquire(0, seconds=60.0) for each in contenders))

    assert [(lease.lane, lease.lanes) for lease in leases if lease] == [(0, 4)]


# change


async def test_after_a_change_there_are_so_many_lanes_and_none_has_an_owner(member: Member, we: PostgresLeases) -> None:
    before = await _acquired(we, 0)
    await _acquired(we, 3)

    assert await we.change(2)

    they = member("they", lanes=2)
    assert ((fleet := await _seen(they)).lanes, list(fleet.taken), list(fleet.expired)) == (2, [], [])
    assert await they.acquire(3, seconds=60.0) is None
    theirs = await _acquired(they, 0)
    assert (theirs.lane, theirs.lanes) == (0, 2)
    assert theirs.epoch > before.epoch


async def test_the_owner_of_before_a_change_can_do_nothing(
    we: PostgresLeases, store: PostgresLaneStore, rows: Rows
) -> None:
    await rows.insert_many(1)
    former = await _acquired(we)
    await we.change(2)

    with pytest.raises(LeaseLost, match="lane 0 has another owner"):
        await store.turn(former, CLAIM)
    with pytest.raises(LeaseLost):
        await store.open_flights(former)


async def test_while_a_flight_has_not_landed_nothing_is_changed(
    we: PostgresLeases, store: PostgresLaneStore, rows: Rows, member: Member
) -> None:
    """Its rows may belong to other lanes afterwards. The owner goes on as if nobody had asked."""
    await rows.insert_many(1)
    assert await we.change(1)
    lease = await _acquired(we)
    flight = await claimed(store, lease)

    assert not await we.change(2)

    assert (await _seen(we)).lanes == 1
    assert await member("they").acquire(0, seconds=60.0) is None
    await store.turn(lease, Turn(settled=flight))
    assert await we.change(2)
    assert (await _seen(we)).lanes == 2


async def test_another_tenants_flight_prevents_no_change(we: PostgresLeases, sessions: Sessions) -> None:
    await _execute(
        sessions,
        "INSERT INTO outbox_flight (tenant_id, lane, topic, first_sequence, ids) VALUES (:tenant, 0, 't', 1, '{}')",
        tenant=unique("tenant"),
    )

    assert await we.change(2)


async def test_a_turn_that_is_under_way_is_waited_for_and_its_flight_counts(
    we: PostgresLeases, store: PostgresLaneStore, sessions: Sessions, rows: Rows, tenant: str
) -> None:
    await rows.insert_many(1)
    assert await we.change(1)
    lease = await _acquired(we)
    key = {"tenant": tenant, "topic": TOPIC}
    await _execute(sessions, "INSERT INTO outbox_stream VALUES (:tenant, 0, :topic, 1)", **key)
    async with sessions.begin() as session:
        # Stops the turn in its middle: it has the lane, and is about to write down its flight.
        stream = "SELECT FROM outbox_stream WHERE tenant_id = :tenant AND topic = :topic FOR UPDATE"
        await session.execute(text(stream), key)
        turn = asyncio.create_task(store.turn(lease, CLAIM))
        await eventually(lambda: _are_blocked(sessions, 1))
        change = asyncio.create_task(we.change(2))
        await eventually(lambda: _are_blocked(sessions, 2))

    flight = (await turn).flight
    assert flight is not None
    assert not await change
    assert [found.ids for found in await store.open_flights(lease)] == [flight.ids]


async def test_who_acquires_during_a_change_gets_the_lane_as_it_is_afterwards(
    we: PostgresLeases, member: Member, sessions: Sessions, tenant: str
) -> None:
    async with sessions.begin() as session:
        layout = {"tenant": tenant}
        await session.execute(text("SELECT FROM outbox_layout WHERE tenant_id = :tenant FOR UPDATE"), layout)
        within = asyncio.create_task(we.acquire(0, seconds=60.0))
        beyond = asyncio.create_task(member("they").acquire(3, seconds=60.0))
        await eventually(lambda: _are_blocked(sessions, 2))
        await session.execute(text("UPDATE outbox_layout SET lanes = 2 WHERE tenant_id = :tenant"), layout)

    lease = await within
    assert lease is not None
    assert (lease.lane, lease.lanes, await beyond) == (0, 2, None)


async def test_several_that_change_at_once_agree(member: Member, we: PostgresLeases) -> None:
    changes = [member(f"member-{number}").change(7) for number in range(4)]

    assert await asyncio.gather(*changes) == [True] * 4
    assert (await _seen(we)).lanes == 7


async def _are_blocked(sessions: Sessions, count: int) -> bool:
    return await blocked(sessions) == count


# leave


async def test_who_leaves_is_not_counted_any_more(member: Member, we: PostgresLeases) -> None:
    other = member("other", lanes=2)
    await _seen(other)

    await other.leave()

    assert ((fleet := await _seen(we)).members, fleet.wanted) == (1, 4)


async def test_who_comes_again_is_the_youngest(member: Member, we: PostgresLeases) -> None:
    other = member("other", lanes=2)
    await _seen(other)
    await we.leave()

    assert ((fleet := await _seen(we)).rank, fleet.wanted) == (1, 4)


async def test_with_somebody_who_leaves_go_those_of_whom_nothing_was_heard_for_an_hour(
    member: Member, sessions: Sessions, we: PostgresLeases, tenant: str
) -> None:
    for name, seconds in (("silent", 3590), ("gone", 3610)):
        await _seen(member(name))
        await _age(sessions, tenant, name, seconds=seconds)

    await we.leave()

    async with sessions() as session:
        names = await session.execute(text("SELECT name FROM outbox_member WHERE tenant_id = :t"), {"t": tenant})
        assert list(names.scalars()) == ["silent"]


# other names


@pytest.mark.parametrize(
    ("name", "schema"), [("events", "shop"), ('Order "Events"', "My Shop"), ("half :late", "100%")]
)
async def test_any_name_of_the_table(empty_engine: AsyncEngine, name: str, schema: str) -> None:
    async with empty_engine.begin() as connection:
        await connection.exec_driver_sql(f"CREATE SCHEMA {connection.dialect.identifier_preparer.quote_schema(schema)}")
    await apply_schema(empty_engine, table=name, schema=schema)
    table = make_outbox_table(MetaData(), name=name, schema=schema)
    leases = PostgresLeases(borrowed(async_sessionmaker(empty_engine)), table, tenant_id="acme", name="we", lanes=2)

    assert (await _seen(leases)).lanes == 2
    await leases.release(await _acquired(leases, 1))
    assert await leases.change(1)
    await leases.leave()

    assert (await _seen(leases)).lanes == 1
