"""Row-level security on the real Postgres, with roles that log in by password."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import Column, MetaData, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from bento_outbox import InMemoryMessageBus, MisuseError, Outbox, SchemaError, UnitOfWork, event_type
from bento_outbox.database_url import parse_database_url
from bento_outbox.schema import apply_schema, schema_sql, validate_schema
from bento_outbox.sql_files import LANE_TABLES
from bento_outbox.table import make_outbox_table, outbox_table
from bento_outbox.tenant_roles import Binding, bind_role, bound_roles, unbind_role
from outbox_projector import OutboxProjector
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.sessions import borrowed
from outbox_projector.store import Store
from tests.conftest import unique
from tests.support.programs import Finished, run
from tests.support.roles import Roles
from tests.support.rows import Rows

REFUSED = "new row violates row-level security policy"


@event_type("tests.rls.Placed")
@dataclass(frozen=True)
class Placed:
    aggregate_id: str


@pytest.fixture
async def roles(empty_engine: AsyncEngine, empty_database_url: str) -> AsyncIterator[Roles]:
    roles = Roles(empty_engine, empty_database_url)
    yield roles
    await roles.close()


@pytest.fixture
async def owner(empty_engine: AsyncEngine) -> AsyncEngine:
    """Of a protected outbox with a row of each of two tenants."""
    await apply_schema(empty_engine, row_level_security=True)
    for tenant in ("acme", "bolt"):
        await Rows(async_sessionmaker(empty_engine), tenant).insert(aggregate_id=f"order of {tenant}")
    return empty_engine


@pytest.fixture
async def acme(owner: AsyncEngine, roles: Roles) -> AsyncEngine:
    """A role bound to acme, with every privilege on rows that could be granted by mistake."""
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme", use="both")
    await _execute(owner, f'GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO "{role}"')
    return roles.log_in(role)


async def _execute(engine: AsyncEngine, statement: str) -> int:
    async with engine.begin() as connection:
        return (await connection.execute(text(statement))).rowcount


async def _tenants(engine: AsyncEngine, condition: str = "true") -> list[str]:
    async with engine.connect() as connection:
        statement = f"SELECT tenant_id FROM outbox WHERE {condition} ORDER BY seq"
        return list((await connection.execute(text(statement))).scalars())


def _insert(tenant: str, event_id: UUID | None = None, *, then: str = "") -> str:
    return (
        f"INSERT INTO outbox (id, tenant_id, aggregate_id, type, payload) "
        f"VALUES ('{event_id or uuid4()}', '{tenant}', 'order-1', 'Placed', '{{}}') {then}"
    )


async def _id_of(engine: AsyncEngine, tenant: str) -> UUID:
    async with engine.connect() as connection:
        statement = text("SELECT id FROM outbox WHERE tenant_id = :tenant")
        found: UUID = (await connection.execute(statement, {"tenant": tenant})).scalar_one()
        return found


# what a bound role can do


async def test_it_reads_its_own_rows_only(acme: AsyncEngine) -> None:
    assert await _tenants(acme) == ["acme"]
    assert await _tenants(acme, "tenant_id = 'bolt'") == []
    assert await _tenants(acme, "tenant_id <> 'acme' OR true") == ["acme"]


async def test_no_function_of_its_own_sees_the_others(acme: AsyncEngine, owner: AsyncEngine) -> None:
    """However cheap it claims to be, it runs behind the policy."""
    await _execute(owner, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    await _execute(
        acme,
        """CREATE FUNCTION tell(what text) RETURNS bool LANGUAGE plpgsql COST 0.0000001
           AS $$ BEGIN IF what <> 'acme' THEN RAISE EXCEPTION 'seen: %', what; END IF; RETURN true; END $$""",
    )

    assert await _tenants(acme, "tell(tenant_id)") == ["acme"]


async def test_what_a_view_or_a_security_definer_function_shows_is_what_its_owner_sees(
    acme: AsyncEngine, owner: AsyncEngine
) -> None:
    """Its own show no more than before. The caveat of the documentation: those of the table's owner show everything."""
    function = "LANGUAGE sql SECURITY DEFINER AS 'SELECT tenant_id FROM outbox ORDER BY seq'"
    await _execute(owner, "GRANT CREATE ON SCHEMA public TO PUBLIC")
    for engine, name in ((acme, "of_acme"), (owner, "of_owner")):
        await _execute(engine, f"CREATE FUNCTION told_{name}() RETURNS SETOF text {function}")
        await _execute(engine, f"CREATE VIEW seen_{name} AS SELECT tenant_id FROM outbox ORDER BY seq")
    await _execute(owner, "GRANT SELECT ON seen_of_owner TO PUBLIC")

    async def seen(what: str) -> list[str]:
        async with acme.connect() as connection:
            return list((await connection.execute(text(f"SELECT * FROM {what}"))).scalars())

    assert await seen("told_of_acme()") == await seen("seen_of_acme") == ["acme"]
    assert await seen("told_of_owner()") == await seen("seen_of_owner") == ["acme", "bolt"]


async def test_it_inserts_for_its_own_tenant_only(acme: AsyncEngine, owner: AsyncEngine) -> None:
    await _execute(acme, _insert("acme"))
    with pytest.raises(DBAPIError, match=REFUSED):
        await _execute(acme, _insert("bolt"))

    assert await _tenants(owner) == ["acme", "bolt", "acme"]


async def test_it_changes_its_own_rows_only(acme: AsyncEngine, owner: AsyncEngine) -> None:
    assert await _execute(acme, "UPDATE outbox SET status = 'SENT'") == 1
    assert await _execute(acme, "UPDATE outbox SET status = 'SENT' WHERE tenant_id = 'bolt'") == 0

    assert await _tenants(owner, "status = 'NEW'") == ["bolt"]


async def test_it_gives_no_row_away(acme: AsyncEngine, owner: AsyncEngine) -> None:
    with pytest.raises(DBAPIError, match=REFUSED):
        await _execute(acme, "UPDATE outbox SET tenant_id = 'bolt'")

    assert await _tenants(owner) == ["acme", "bolt"]


async def test_it_deletes_its_own_rows_only(acme: AsyncEngine, owner: AsyncEngine) -> None:
    assert await _execute(acme, "DELETE FROM outbox") == 1

    assert await _tenants(owner) == ["bolt"]


async def test_on_conflict_reaches_no_row_of_another(acme: AsyncEngine, owner: AsyncEngine) -> None:
    theirs = await _id_of(owner, "bolt")

    assert await _execute(acme, _insert("acme", theirs, then="ON CONFLICT (id) DO NOTHING")) == 0
    with pytest.raises(DBAPIError, match=REFUSED):
        await _execute(acme, _insert("acme", theirs, then="ON CONFLICT (id) DO UPDATE SET tenant_id = 'acme'"))
    with pytest.raises(DBAPIError, match=REFUSED):
        await _execute(acme, _insert("bolt", theirs, then="ON CONFLICT (id) DO NOTHING"))

    assert await _tenants(owner) == ["acme", "bolt"]


async def test_nothing_that_it_can_set_changes_whose_role_it_is(
    acme: AsyncEngine, owner: AsyncEngine, roles: Roles
) -> None:
    other = await roles.create(unique("bolt"))
    await bind_role(owner, other, tenant_id="bolt")

    async with acme.connect() as connection:
        await connection.execute(text("SET row_security = off"))
        with pytest.raises(DBAPIError, match="query would be affected by row-level security policy"):
            await connection.execute(text("SELECT * FROM outbox"))
        await connection.rollback()
        for attempt in (f'SET ROLE "{other}"', f'SET SESSION AUTHORIZATION "{other}"'):
            with pytest.raises(DBAPIError, match="permission denied"):
                await connection.execute(text(attempt))
            await connection.rollback()
        await connection.execute(text("SET search_path = pg_temp"))
        await connection.execute(text("CREATE TEMP TABLE outbox_tenant_role (role_name name, tenant_id text)"))
        seen = await connection.execute(text("SELECT tenant_id FROM public.outbox"))
        assert seen.scalars().all() == ["acme"]


@pytest.mark.parametrize(
    "attempt",
    [
        "INSERT INTO outbox_tenant_role VALUES ('x', NULL, true)",
        "UPDATE outbox_tenant_role SET tenant_id = 'bolt'",
        "DELETE FROM outbox_tenant_role",
        "TRUNCATE outbox_tenant_role",
        "TRUNCATE outbox",
        "ALTER TABLE outbox DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own_tenant ON outbox",
    ],
)
async def test_it_cannot_change_the_rules(acme: AsyncEngine, attempt: str) -> None:
    with pytest.raises(DBAPIError) as raised:
        await _execute(acme, attempt)

    assert isinstance(raised.value.orig.__cause__, asyncpg.InsufficientPrivilegeError)  # type: ignore[union-attr]


async def test_not_even_with_privileges_that_were_granted_by_default(acme: AsyncEngine, owner: AsyncEngine) -> None:
    await _execute(owner, "GRANT ALL ON outbox_tenant_role TO PUBLIC")

    with pytest.raises(DBAPIError, match=REFUSED):
        await _execute(acme, "INSERT INTO outbox_tenant_role VALUES ('x', NULL, true)")
    assert await _execute(acme, "UPDATE outbox_tenant_role SET tenant_id = 'bolt'") == 0
    assert await _execute(acme, "DELETE FROM outbox_tenant_role") == 0


async def test_it_sees_its_own_binding_only(acme: AsyncEngine, owner: AsyncEngine, roles: Roles) -> None:
    await bind_role(owner, await roles.create(unique("bolt")), tenant_id="bolt")

    async with acme.connect() as connection:
        seen = await connection.execute(text("SELECT tenant_id FROM outbox_tenant_role"))
        assert seen.scalars().all() == ["acme"]


async def test_a_role_of_all_tenants_reads_and_writes_all(owner: AsyncEngine, roles: Roles) -> None:
    role = await roles.create(unique("shop"))
    await bind_role(owner, role, tenant_id=None)
    shop = roles.log_in(role)

    await _execute(shop, _insert("bolt"))

    assert await _tenants(shop) == ["acme", "bolt", "bolt"]


async def test_a_role_that_nobody_bound_sees_and_writes_nothing(owner: AsyncEngine, roles: Roles) -> None:
    role = await roles.create(unique("stranger"))
    await _execute(owner, f'GRANT USAGE ON SCHEMA public TO "{role}"')
    await _execute(owner, f'GRANT ALL ON outbox TO "{role}"')
    stranger = roles.log_in(role)

    assert await _tenants(stranger) == []
    with pytest.raises(DBAPIError, match=REFUSED):
        await _execute(stranger, _insert("acme"))


@pytest.mark.parametrize(
    ("use", "allowed"),
    [
        ("writer", {"insert"}),
        ("projector", {"update", "mark as requeued", "take a lane", "delete"}),
        ("both", {"insert", "update", "mark as requeued", "take a lane", "delete"}),
        ("operator", {"update", "mark as requeued", "delete"}),
    ],
)
async def test_a_role_gets_what_its_use_needs(owner: AsyncEngine, roles: Roles, use: str, allowed: set[str]) -> None:
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme", use="both")
    await bind_role(owner, role, tenant_id="acme", use=use)  # type: ignore[arg-type] # the last word holds
    attempts = {
        "insert": _insert("acme"),
        "update": "UPDATE outbox SET status = 'SENT'",
        "mark as requeued": "UPDATE outbox SET headers = '{}'",
        "change the event": "UPDATE outbox SET payload = '1'",
        "take a lane": "INSERT INTO outbox_lane (tenant_id, lane) VALUES ('acme', 1)",
        "delete": "DELETE FROM outbox",
    }
    done = set()
    for name, statement in attempts.items():
        try:
            done.add(name) if await _execute(roles.log_in(role), statement) else None
        except DBAPIError as error:
            assert "permission denied" in str(error)  # noqa: PT017 - for some of them it is raised

    assert done == allowed


# through the library and the projector


async def test_the_whole_chain_under_bound_roles(
    owner: AsyncEngine, roles: Roles, memory_bus: InMemoryMessageBus
) -> None:
    writer, projector = await roles.create(unique("writer")), await roles.create(unique("projector"))
    await bind_role(owner, writer, tenant_id="acme")
    await bind_role(owner, projector, tenant_id="acme", use="projector")
    sessions = async_sessionmaker(roles.log_in(writer))

    async with UnitOfWork(sessions, tenant_id="acme") as work:
        work.register(Placed("order-2"))
        await work.commit()
    async with UnitOfWork(sessions, tenant_id="bolt") as work:
        work.register(Placed("order-3"))
        with pytest.raises(DBAPIError, match=REFUSED):
            await work.commit()
    deliveries = async_sessionmaker(roles.log_in(projector))
    await OutboxProjector(deliveries, memory_bus, "acme").drain()
    # Set up for the wrong tenant it gets no lane, and counts nothing.
    with pytest.raises(DatabaseUnavailable, match="may not") as raised:
        await OutboxProjector(deliveries, memory_bus, "bolt").drain()
    assert raised.value.reason == "DatabasePermissionDenied"
    assert (await Store(outbox_table, "bolt").measure(borrowed(deliveries))).pending == 0

    assert [(event.tenant_id, event.aggregate_id) for event in memory_bus.published] == [
        ("acme", "order of acme"),
        ("acme", "order-2"),
    ]
    assert await _tenants(owner, "status = 'NEW'") == ["bolt"]


@pytest.mark.parametrize("beside", LANE_TABLES)
async def test_what_the_projector_keeps_is_held_to_the_tenant_as_well(
    owner: AsyncEngine, roles: Roles, beside: str
) -> None:
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme", use="projector")
    table = make_outbox_table(MetaData()).metadata.tables[f"outbox{beside}"]
    values = {column.name: _value(column) for column in table.columns if column.identity is None}

    async with roles.log_in(role).begin() as connection:
        await connection.execute(table.insert().values(**{**values, "tenant_id": "acme"}))
    with pytest.raises(DBAPIError, match=REFUSED):
        async with roles.log_in(role).begin() as connection:
            await connection.execute(table.insert().values(**{**values, "tenant_id": "bolt"}))
    async with owner.begin() as connection:
        await connection.execute(table.insert().values(**{**values, "tenant_id": "bolt"}))

    async with roles.log_in(role).connect() as connection:
        assert list((await connection.execute(select(table.c.tenant_id))).scalars()) == ["acme"]


def _value(column: Column[Any]) -> object:
    if isinstance(column.type, JSONB):
        return {}
    values: dict[type, object] = {str: "x", int: 1, bool: True, datetime: datetime(2026, 1, 1, tzinfo=UTC), list: []}
    return values[column.type.python_type]


async def test_direct_publish_under_a_bound_role(
    owner: AsyncEngine, roles: Roles, memory_bus: InMemoryMessageBus
) -> None:
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme", use="both")

    async with UnitOfWork(async_sessionmaker(roles.log_in(role)), tenant_id="acme", message_bus=memory_bus) as work:
        work.register(Placed("order-2"))
        await work.commit()

    assert [event.aggregate_id for event in memory_bus.published] == ["order-2"]
    assert await _tenants(owner, "status = 'SENT'") == ["acme"]


# cost


async def test_the_policy_runs_once_a_statement_and_the_index_is_used(owner: AsyncEngine, acme: AsyncEngine) -> None:
    await _execute(
        owner,
        "INSERT INTO outbox (tenant_id, aggregate_id, type, payload) "
        "SELECT 'tenant-' || n % 100, 'order', 'Placed', '{}' FROM generate_series(1, 20000) AS n",
    )
    await _execute(owner, "ANALYZE outbox")

    async with acme.connect() as connection:
        statement = (
            "EXPLAIN (ANALYZE, FORMAT JSON) SELECT id FROM outbox "
            "WHERE tenant_id = 'acme' AND status = 'NEW' ORDER BY seq LIMIT 200 FOR UPDATE SKIP LOCKED"
        )
        explained = (await connection.execute(text(statement))).scalar_one()
    plan = (explained if isinstance(explained, list) else json.loads(explained))[0]["Plan"]
    nodes = list(_nodes(plan))

    [scan] = [node for node in nodes if node.get("Relation Name") == "outbox"]
    assert scan["Node Type"] == "Index Scan"
    assert scan["Index Name"] == "outbox_tenant_status_seq"
    # No row of another tenant was looked at, and each subquery ran once at most.
    assert scan.get("Rows Removed by Filter", 0) == 0
    lookups = [node for node in nodes if node.get("Relation Name") == "outbox_tenant_role"]
    assert len(lookups) == 2
    assert all(node["Actual Loops"] <= 1 for node in lookups)


def _nodes(plan: dict[str, object]) -> list[dict[str, object]]:
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    return [plan, *(node for child in children for node in _nodes(child))]


# turning it on


async def test_on_a_table_that_is_in_use(empty_engine: AsyncEngine, roles: Roles) -> None:
    """The application that serves all tenants is bound first, so it does not notice."""
    await apply_schema(empty_engine)
    role = await roles.create(unique("shop"))
    await _execute(empty_engine, f'GRANT USAGE ON SCHEMA public TO "{role}"')
    await _execute(empty_engine, f'GRANT SELECT, INSERT ON outbox TO "{role}"')
    shop = roles.log_in(role)
    await _execute(shop, _insert("acme"))
    with pytest.raises(
        SchemaError, match=r"^row-level security of table outbox is off: run `bento-outbox schema apply"
    ):
        await validate_schema(empty_engine, row_level_security=True)

    await bind_role(empty_engine, role, tenant_id=None)
    await apply_schema(empty_engine, row_level_security=True)

    await validate_schema(empty_engine, row_level_security=True)
    await _execute(shop, _insert("bolt"))
    assert await _tenants(shop) == ["acme", "bolt"]


async def test_again_it_locks_nothing_and_it_is_never_turned_off(owner: AsyncEngine, acme: AsyncEngine) -> None:
    async with acme.begin() as reading:
        await reading.execute(text("SELECT * FROM outbox"))
        await apply_schema(owner, row_level_security=True)
        await apply_schema(owner)

    await validate_schema(owner, row_level_security=True)


@pytest.mark.parametrize("how", ["apply", "sql"])
async def test_with_any_names(
    empty_engine: AsyncEngine, empty_database_url: str, roles: Roles, memory_bus: InMemoryMessageBus, how: str
) -> None:
    names = {"table": 'Order "Events": x', "schema": "My Shop"}
    await _execute(empty_engine, 'CREATE SCHEMA "My Shop"')
    if how == "apply":
        await apply_schema(empty_engine, **names, row_level_security=True)
    else:
        printed = schema_sql(**names, row_level_security=True)
        assert (await run("psql", "-v", "ON_ERROR_STOP=1", "-q", empty_database_url, given=printed)).code == 0
    table = make_outbox_table(MetaData(), name=names["table"], schema=names["schema"])
    role = await roles.create(unique('Rôle of "acme": x'.replace('"', "")))
    await bind_role(empty_engine, role, tenant_id="acme", use="both", **names)
    await Rows(async_sessionmaker(empty_engine), "bolt", table).insert()
    sessions = async_sessionmaker(roles.log_in(role))

    async with UnitOfWork(sessions, outbox=Outbox(table=table), tenant_id="acme") as work:
        work.register(Placed("order-1"))
        await work.commit()

    await OutboxProjector(sessions, memory_bus, "acme", table=table).drain()
    with pytest.raises(DatabaseUnavailable):
        await OutboxProjector(sessions, memory_bus, "bolt", table=table).drain()
    assert [event.tenant_id for event in memory_bus.published] == ["acme"]
    await validate_schema(empty_engine, **names, row_level_security=True)
    assert await bound_roles(empty_engine, **names) == [Binding(role, "acme", "both")]


# binding


async def test_a_role_can_be_bound_otherwise_and_unbound(owner: AsyncEngine, roles: Roles) -> None:
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme")
    await bind_role(owner, role, tenant_id="bolt")
    assert await _tenants(roles.log_in(role)) == ["bolt"]

    await unbind_role(owner, role)

    with pytest.raises(DBAPIError, match="permission denied for table outbox"):
        await _tenants(roles.log_in(role))
    assert await bound_roles(owner) == []


async def test_the_binding_of_a_role_that_was_dropped_is_shown_and_can_go(
    owner: AsyncEngine, empty_database_url: str
) -> None:
    roles = Roles(owner, empty_database_url)
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme")
    await roles.close()

    assert await bound_roles(owner) == [Binding(role, "acme", None)]
    await unbind_role(owner, role)
    assert await bound_roles(owner) == []


BadRole = Callable[[Roles, AsyncEngine], Awaitable[str]]


async def _bypasses(roles: Roles, _owner: AsyncEngine) -> str:
    return await roles.create(unique("r"), "BYPASSRLS")


async def _becomes_superuser(roles: Roles, owner: AsyncEngine) -> str:
    role, admin = await roles.create(unique("r")), await roles.create(unique("admin"), "SUPERUSER")
    await _execute(owner, f'GRANT "{admin}" TO "{role}"')
    return role


async def _becomes_another_tenant(roles: Roles, owner: AsyncEngine) -> str:
    role, other = await roles.create(unique("r")), await roles.create(unique("other"))
    await bind_role(owner, other, tenant_id="bolt")
    await _execute(owner, f'GRANT "{other}" TO "{role}"')
    return role


async def _may_truncate(roles: Roles, owner: AsyncEngine) -> str:
    role = await roles.create(unique("r"))
    await _execute(owner, "GRANT TRUNCATE ON outbox TO PUBLIC")
    return role


async def _nobody(_roles: Roles, _owner: AsyncEngine) -> str:
    return "nobody at all"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (_nobody, r"^there is no role nobody at all: create it with CREATE ROLE … LOGIN$"),
        (_bypasses, r"^role r-\w+ is a superuser or has BYPASSRLS, so it cannot be held to one tenant$"),
        (_becomes_superuser, r"^role r-\w+ may become admin-\w+, which row-level security does not hold: revoke that"),
        (_becomes_another_tenant, r"^role r-\w+ may become other-\w+, which is bound otherwise: revoke that member"),
        (
            _may_truncate,
            r"^role r-\w+ may TRUNCATE table outbox, or put triggers on it, through PUBLIC or another role",
        ),
    ],
)
async def test_a_role_that_cannot_be_held_to_a_tenant_is_refused(
    owner: AsyncEngine, roles: Roles, make: BadRole, sentence: str
) -> None:
    role = await make(roles, owner)

    with pytest.raises(MisuseError, match=sentence):
        await bind_role(owner, role, tenant_id="acme")

    assert role not in {binding.role for binding in await bound_roles(owner)}


async def test_without_protection_no_role_is_bound_to_a_tenant(empty_engine: AsyncEngine, roles: Roles) -> None:
    role = await roles.create(unique("acme"))
    with pytest.raises(SchemaError, match=r"^table shop\.events does not exist: run `bento-outbox schema apply --row"):
        await bind_role(empty_engine, role, tenant_id="acme", table="events", schema="shop")
    await apply_schema(empty_engine)

    with pytest.raises(SchemaError, match=r"^row-level security of table outbox is off, so the role would see"):
        await bind_role(empty_engine, role, tenant_id="acme")
    with pytest.raises(SchemaError, match=r"^no role was ever bound for table outbox"):
        await bound_roles(empty_engine)
    with pytest.raises(MisuseError, match="a tenant's id is not empty"):
        await bind_role(empty_engine, role, tenant_id="")


# as a command


async def test_the_commands(empty_engine: AsyncEngine, empty_database_url: str, roles: Roles) -> None:
    acme, shop = await roles.create(unique("acme")), await roles.create(unique("shop"))

    async def bento_outbox(*arguments: str) -> Finished:
        return await run("bento-outbox", *arguments, DATABASE_URL=empty_database_url)

    applied = await bento_outbox("schema", "apply", "--row-level-security")
    assert (applied.output, applied.errors) == ("table outbox is up to date\n", "")
    checked = await bento_outbox("schema", "check", "--row-level-security")
    assert (checked.code, checked.errors) == (0, "")
    bound = await bento_outbox("tenants", "bind", acme, "--tenant", "acme")
    assert (bound.output, bound.errors) == (f"role {acme} is bound to tenant acme as writer\n", "")
    bound = await bento_outbox("tenants", "bind", shop, "--all-tenants", "--as", "both")
    assert (bound.output, bound.errors) == (f"role {shop} is bound to all tenants as both\n", "")

    listed = await bento_outbox("tenants", "list")
    assert listed.output == f"{acme}\ttenant acme\twriter\n{shop}\tall tenants\tboth\n"
    unbound = await bento_outbox("tenants", "unbind", acme)
    assert (unbound.output, unbound.errors) == (f"role {acme} is unbound\n", "")
    assert await bound_roles(empty_engine) == [Binding(shop, None, "both")]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("bind", "nobody", "--tenant", "acme"), 1, "Error: there is no role nobody: create it with CREATE ROLE"),
        (("bind", "nobody"), 2, "Error: say either --tenant ID or --all-tenants"),
        (("bind", "nobody", "--tenant", "acme", "--all-tenants"), 2, "Error: say either --tenant ID or --all-tenants"),
        (("bind", "nobody", "--tenant", ""), 1, "Error: a tenant's id is not empty"),
        (("bind", "{owner}", "--all-tenants"), 1, "owns table outbox, so it sees all rows anyway: bind another role"),
        (("bind", "{owner}", "--tenant", "acme"), 1, "owns table outbox, so it sees all rows anyway"),
        (("unbind", "nobody"), 1, "Error: role nobody is not bound: `bento-outbox tenants list` shows those that are"),
        (("list", "--table", "nothing"), 1, "Error: table nothing does not exist: run `bento-outbox schema apply"),
    ],
)
async def test_what_went_wrong_is_one_sentence(
    owner: AsyncEngine, empty_database_url: str, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    user = parse_database_url(empty_database_url).username
    given = [argument.format(owner=user) for argument in arguments]

    finished = await run("bento-outbox", "tenants", *given, DATABASE_URL=empty_database_url)

    last = finished.errors.splitlines()[-1]
    assert (finished.code, last.startswith("Error: ")) == (code, True)
    assert sentence in last
    assert code == 2 or finished.errors.count("\n") == 1


async def test_only_the_owner_binds(owner: AsyncEngine, roles: Roles) -> None:
    role = await roles.create(unique("acme"))
    await bind_role(owner, role, tenant_id="acme")

    finished = await run("bento-outbox", "tenants", "bind", role, "--all-tenants", DATABASE_URL=roles.url(role))

    assert finished.code == 1
    assert finished.errors.count("\n") == 1
    assert "permission denied" in finished.errors
