"""The table in the user's hands: by function and by command."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Inspector, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker

from bento_outbox import InMemoryMessageBus, SchemaError
from bento_outbox.ddl import script
from bento_outbox.schema import apply_schema, validate_schema
from bento_outbox.sql_files import LONGEST_NAME
from bento_outbox.table import outbox_table
from outbox_projector import OutboxProjector
from tests.support.programs import Finished, run
from tests.support.rows import Rows

BARE = """
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    tenant_id text NOT NULL,
    aggregate_id text NOT NULL,
    type text NOT NULL,
    schema_id text,
    schema_ver int,
    payload jsonb NOT NULL,
    status text NOT NULL,
    retry_cnt int NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX outbox_tenant_status ON outbox (tenant_id, status);
INSERT INTO outbox
SELECT gen_random_uuid(), 'acme', 'order-' || n % 3, 'orders.Placed', 'placed', 1, jsonb_build_object('n', n),
       (ARRAY['NEW', 'SENT', 'ERR'])[n % 3 + 1], n % 3, now() - n * interval '1 minute'
FROM generate_series(1, 30) AS n;
"""
"""The table of the first writers of this pattern, with rows in all three states."""


async def _execute(engine: AsyncEngine, script: str) -> None:
    async with engine.begin() as connection:
        for statement in script.split(";\n"):
            await connection.execute(text(statement))


async def _columns(engine: AsyncEngine) -> dict[str, tuple[str, bool, bool]]:
    """Name → type, nullable, has a default."""

    def read(inspector: Inspector) -> dict[str, tuple[str, bool, bool]]:
        return {
            column["name"]: (
                str(column["type"]),
                bool(column["nullable"]),
                column["default"] is not None or "identity" in column,
            )
            for column in inspector.get_columns("outbox")
        }

    async with engine.connect() as connection:
        return await connection.run_sync(lambda sync: read(inspect(sync)))


async def test_apply_makes_the_table_that_check_wants(empty_engine: AsyncEngine) -> None:
    await apply_schema(empty_engine)

    await validate_schema(empty_engine)
    assert await _columns(empty_engine) == {
        "id": ("UUID", False, True),
        "tenant_id": ("TEXT", False, False),
        "aggregate_id": ("TEXT", False, False),
        "type": ("TEXT", False, False),
        "schema_id": ("TEXT", True, False),
        "schema_ver": ("INTEGER", True, False),
        "payload": ("JSONB", False, False),
        "status": ("TEXT", False, True),
        "retry_cnt": ("INTEGER", False, True),
        "created_at": ("TIMESTAMP", False, True),
        "seq": ("BIGINT", False, True),
        "ordering_key": ("TEXT", True, False),
        "headers": ("JSONB", False, True),
        "topic": ("TEXT", True, False),
        "available_at": ("TIMESTAMP", False, True),
        "last_error": ("TEXT", True, False),
        "sent_at": ("TIMESTAMP", True, False),
    }


async def test_the_metadata_creates_the_same_table_as_the_migrations(empty_engine: AsyncEngine) -> None:
    """`make_outbox_table` is for applications that create their tables from metadata."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(outbox_table.metadata.create_all)
    by_metadata = await _columns(empty_engine)
    await _execute(empty_engine, "DROP TABLE outbox")
    await apply_schema(empty_engine)

    assert await _columns(empty_engine) == by_metadata


async def _storage(engine: AsyncEngine) -> tuple[set[str], list[str]]:
    """The outbox's storage parameters, and the definitions of its indexes."""
    async with engine.connect() as connection:
        options = await connection.execute(
            text("SELECT unnest(reloptions) FROM pg_class WHERE oid = 'outbox'::regclass")
        )
        indexes = await connection.execute(
            text("SELECT indexdef FROM pg_indexes WHERE tablename = 'outbox' ORDER BY indexname")
        )
        return set(options.scalars()), list(indexes.scalars())


async def test_the_metadata_stores_the_table_in_the_same_way(empty_engine: AsyncEngine) -> None:
    async with empty_engine.begin() as connection:
        await connection.run_sync(outbox_table.metadata.create_all)
    by_metadata = await _storage(empty_engine)
    await _execute(empty_engine, "DROP TABLE outbox")
    await apply_schema(empty_engine)

    assert await _storage(empty_engine) == by_metadata


@pytest.mark.parametrize(("name", "schema"), [("outbox", None), ("Order's events", "My shop")])
async def test_autovacuum_is_set_once_and_stays_as_its_owner_sets_it(
    empty_engine: AsyncEngine, name: str, schema: str | None
) -> None:
    """Also where an application's own history runs the statements again, and where the table was there before."""
    quote = empty_engine.dialect.identifier_preparer.quote
    table = quote(name) if schema is None else f"{quote(schema)}.{quote(name)}"
    statements = script("bento_outbox.migrations", "outbox_table.sql", table=name, schema=schema)
    async with empty_engine.begin() as connection:
        if schema is not None:
            await connection.exec_driver_sql(f"CREATE SCHEMA {quote(schema)}")
        for statement in statements:
            await connection.execute(text(statement))
        ours = await _autovacuum(connection, table)
        await connection.exec_driver_sql(f"ALTER TABLE {table} RESET (autovacuum_vacuum_cost_delay)")
        await connection.exec_driver_sql(f"ALTER TABLE {table} SET (autovacuum_vacuum_threshold = 5)")
        for statement in statements:
            await connection.execute(text(statement))

        assert ours == {
            "autovacuum_vacuum_scale_factor=0",
            "autovacuum_vacuum_threshold=1000",
            "autovacuum_vacuum_cost_delay=0",
        }
        assert await _autovacuum(connection, table) == {
            "autovacuum_vacuum_scale_factor=0",
            "autovacuum_vacuum_threshold=5",
        }


async def _autovacuum(connection: AsyncConnection, table: str) -> set[str]:
    options = text("SELECT unnest(reloptions) FROM pg_class WHERE oid = to_regclass(:table)")
    return set((await connection.execute(options, {"table": table})).scalars())


async def test_apply_again_changes_nothing(empty_engine: AsyncEngine) -> None:
    await apply_schema(empty_engine)
    rows = Rows(async_sessionmaker(empty_engine), "acme")
    await rows.insert()
    before = (await _columns(empty_engine), await rows.all())

    await apply_schema(empty_engine)

    assert (await _columns(empty_engine), await rows.all()) == before


async def test_several_pods_may_apply_at_once(empty_database_url: str, empty_engine: AsyncEngine) -> None:
    applied = await asyncio.gather(*(_bento_outbox(empty_database_url, "apply") for _ in range(3)))

    assert [finished.errors for finished in applied] == [""] * 3
    await validate_schema(empty_engine)


async def test_several_tasks_may_apply_at_once(empty_engine: AsyncEngine) -> None:
    tables = ("one", "one", "two", "three")

    await asyncio.gather(*(apply_schema(empty_engine, table=table) for table in tables))

    for table in tables:
        await validate_schema(empty_engine, table=table)


async def test_the_bare_table_is_upgraded_with_its_rows(
    empty_engine: AsyncEngine, memory_bus: InMemoryMessageBus
) -> None:
    await _execute(empty_engine, BARE)
    sessions = async_sessionmaker(empty_engine)
    async with sessions() as session:
        before = (await session.execute(text("SELECT * FROM outbox ORDER BY created_at"))).all()

    await apply_schema(empty_engine)

    await validate_schema(empty_engine)
    async with sessions() as session:
        columns = ", ".join(before[0]._fields)
        after = (await session.execute(text(f"SELECT {columns} FROM outbox ORDER BY created_at"))).all()
    assert after == before
    rows = await Rows(sessions, "acme").all()
    assert [row.seq for row in rows] == list(range(1, 31))
    # They can be delivered at once, and only those in NEW.
    await OutboxProjector(sessions, memory_bus, "acme").drain()
    assert len(memory_bus.published) == 10
    assert {event.id for event in memory_bus.published} == {row.id for row in rows if row.status == "NEW"}


@pytest.mark.parametrize("made_from", ["nothing", "the bare table"])
async def test_plain_sql_may_insert_the_bare_columns_alone(empty_engine: AsyncEngine, made_from: str) -> None:
    if made_from == "the bare table":
        await _execute(empty_engine, BARE + "DELETE FROM outbox")
    await apply_schema(empty_engine)
    await _execute(
        empty_engine,
        "INSERT INTO outbox (tenant_id, aggregate_id, type, payload) VALUES ('acme', 'order-1', 'Placed', '{}')",
    )

    [row] = await Rows(async_sessionmaker(empty_engine), "acme").all()

    assert (row.status, row.retry_cnt, row.headers, row.sent_at) == ("NEW", 0, {}, None)
    assert None not in (row.id, row.seq, row.created_at, row.available_at)


async def test_check_says_that_the_table_is_missing(empty_engine: AsyncEngine) -> None:
    with pytest.raises(SchemaError, match=r"^table outbox does not exist: run `bento-outbox schema apply`$"):
        await validate_schema(empty_engine)
    with pytest.raises(SchemaError, match=r"^table shop\.events does not exist: "):
        await validate_schema(empty_engine, table="events", schema="shop")


async def test_check_says_which_columns_are_missing(empty_engine: AsyncEngine) -> None:
    await _execute(empty_engine, BARE)

    with pytest.raises(SchemaError) as raised:
        await validate_schema(empty_engine)

    assert str(raised.value) == (
        "table outbox lacks available_at, headers, last_error, ordering_key, sent_at, seq, topic: "
        "run `bento-outbox schema apply`"
    )


@pytest.mark.parametrize("lost", ["TABLE outbox", "TABLE outbox_request", "TABLE outbox_stream", "COLUMN topic"])
async def test_what_was_dropped_by_hand_is_made_again(empty_engine: AsyncEngine, lost: str) -> None:
    """Its history says that nothing is left to do."""
    await apply_schema(empty_engine)
    await _execute(empty_engine, f"ALTER TABLE outbox DROP {lost}" if lost.startswith("COLUMN") else f"DROP {lost}")
    with pytest.raises(SchemaError, match="run `bento-outbox schema apply`"):
        await validate_schema(empty_engine)

    await apply_schema(empty_engine)

    await validate_schema(empty_engine)


async def test_what_no_migration_brings_back_is_said(empty_engine: AsyncEngine) -> None:
    await apply_schema(empty_engine)
    await _execute(empty_engine, "ALTER TABLE outbox_lane DROP COLUMN epoch")

    with pytest.raises(SchemaError, match=r"^table outbox_lane lacks epoch, which no migration brings back: add it as"):
        await apply_schema(empty_engine)


async def test_row_level_security_of_every_table_is_checked(empty_engine: AsyncEngine) -> None:
    await apply_schema(empty_engine, row_level_security=True)
    await _execute(empty_engine, "DROP TABLE outbox_request")
    await apply_schema(empty_engine)
    with pytest.raises(SchemaError, match=r"^row-level security of table outbox is off: run"):
        await validate_schema(empty_engine, row_level_security=True)

    await apply_schema(empty_engine, row_level_security=True)

    await validate_schema(empty_engine, row_level_security=True)


async def test_a_table_that_is_called_like_an_index_of_old_stays(empty_engine: AsyncEngine) -> None:
    await _execute(empty_engine, "CREATE TABLE outbox_failed ()")

    await apply_schema(empty_engine)

    await validate_schema(empty_engine)
    await _execute(empty_engine, "SELECT FROM outbox_failed")


async def test_an_index_by_the_keys_themselves_gives_way_to_one_by_their_hash(empty_engine: AsyncEngine) -> None:
    """Made by an older version, it would refuse a failed row whose key is longer than its entries can be."""
    await apply_schema(empty_engine, schema="public")
    await _execute(
        empty_engine,
        "DROP INDEX outbox_failed_key;\n"
        "CREATE INDEX outbox_failed ON outbox (tenant_id, (coalesce(ordering_key, aggregate_id)), seq)"
        " WHERE status = 'ERR';\n"
        "UPDATE outbox_alembic_version SET version_num = 'bento_outbox_0003'",
    )

    with pytest.raises(SchemaError, match="table outbox lacks the index outbox_failed_key: run"):
        await validate_schema(empty_engine, schema="public")

    await apply_schema(empty_engine, schema="public")

    _, indexes = await _storage(empty_engine)
    assert [index for index in indexes if "outbox_failed" in index] == [
        "CREATE INDEX outbox_failed_key ON public.outbox USING btree"
        " (tenant_id, hashtextextended(COALESCE(ordering_key, aggregate_id), (0)::bigint), seq)"
        " WHERE (status = 'ERR'::text)"
    ]


async def test_tables_of_several_applications_share_a_database(empty_engine: AsyncEngine) -> None:
    for table in ("orders_outbox", "billing_outbox"):
        await apply_schema(empty_engine, table=table)

    for table in ("orders_outbox", "billing_outbox"):
        await validate_schema(empty_engine, table=table)


# as a command


async def _bento_outbox(url: str, *arguments: str) -> Finished:
    return await run("bento-outbox", "schema", *arguments, DATABASE_URL=url)


async def test_the_command_applies_and_checks(empty_database_url: str) -> None:
    missing = await _bento_outbox(empty_database_url, "check")
    applied = await _bento_outbox(empty_database_url, "apply")
    again = await _bento_outbox(empty_database_url, "apply")
    checked = await _bento_outbox(empty_database_url, "check")

    assert (missing.code, missing.errors) == (
        1,
        "Error: table outbox does not exist: run `bento-outbox schema apply`\n",
    )
    assert (applied.code, applied.output, applied.errors) == (0, "table outbox is up to date\n", "")
    assert again == applied
    assert (checked.code, checked.errors) == (0, "")


async def test_the_command_takes_table_and_schema(empty_database_url: str, empty_engine: AsyncEngine) -> None:
    await _execute(empty_engine, "CREATE SCHEMA shop")

    applied = await _bento_outbox(empty_database_url, "apply", "--table", "Order Events", "--schema", "shop")

    assert (applied.code, applied.output) == (0, "table Order Events is up to date\n")
    await validate_schema(empty_engine, table="Order Events", schema="shop")


@pytest.mark.parametrize("options", [(), ("--table", 'Order "Events"', "--schema", "My Shop")])
async def test_the_printed_sql_makes_a_table_that_check_accepts(
    empty_database_url: str, empty_engine: AsyncEngine, options: tuple[str, ...]
) -> None:
    await _execute(empty_engine, 'CREATE SCHEMA "My Shop"')
    printed = await run("bento-outbox", "schema", "sql", *options)
    assert (printed.code, printed.errors) == (0, "")

    applied = await run("psql", "-v", "ON_ERROR_STOP=1", "-q", empty_database_url, given=printed.output)

    assert (applied.code, applied.errors) == (0, "")
    assert (await _bento_outbox(empty_database_url, "check", *options)).code == 0
    # From here on the command goes on where the script ended.
    assert (await _bento_outbox(empty_database_url, "apply", *options)).code == 0


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        ({"password": "s3cr3t"}, ("check",), 'password authentication failed for user "outbox"'),
        ({"database": "nowhere"}, ("apply",), 'database "nowhere" does not exist'),
        ({"password": "s3cr3t", "port": 1}, ("check",), "could not be reached"),
        (
            {"password": "s3cr3t", "host": "no.such.host.invalid"},
            ("check",),
            "the database at no.such.host.invalid:5432 refused or could not be reached",
        ),
        (
            {"password": "s3cr3t", "drivername": "mysql"},
            ("apply",),
            "begins with mysql://, but only Postgres is supported",
        ),
        ({}, ("apply", "--schema", "nowhere"), 'schema "nowhere" does not exist'),
        ({}, ("apply", "--table", "t" * (LONGEST_NAME + 1)), f"is too long: 1 to {LONGEST_NAME} bytes"),
        (
            {},
            ("check", "--table", "nothing"),
            "table nothing does not exist: run `bento-outbox schema apply --table nothing`",
        ),
        (
            {},
            ("check", "--schema", "my shop", "--row-level-security"),
            "table my shop.outbox does not exist: run `bento-outbox schema apply --schema 'my shop'`",
        ),
        ({}, ("check", "--schema", ""), "the name of the schema is empty: leave it away"),
        ({}, ("apply", "--table", ""), "the table name '' is too short"),
    ],
)
async def test_what_went_wrong_is_one_sentence(
    empty_database_url: str, change: dict[str, object], arguments: tuple[str, ...], sentence: str
) -> None:
    url = make_url(empty_database_url).set(**change)  # type: ignore[arg-type]

    finished = await _bento_outbox(url.render_as_string(hide_password=False), *arguments)

    assert finished.code == 1
    assert finished.errors.startswith("Error: ")
    assert finished.errors.count("\n") == 1
    assert sentence in finished.errors
    assert "s3cr3t" not in finished.output + finished.errors


async def test_a_url_that_is_none_is_not_repeated() -> None:
    finished = await _bento_outbox("outbox:s3cr3t@db/shop", "check")

    assert finished.code == 1
    assert finished.errors.startswith("Error: the database URL cannot be parsed: its form is ")
    assert "s3cr3t" not in finished.errors


async def test_without_a_url_the_variable_is_named() -> None:
    finished = await run("bento-outbox", "schema", "check")

    assert finished.code == 2
    assert "DATABASE_URL" in finished.errors


async def test_sql_for_a_table_that_cannot_be_is_one_sentence_as_well() -> None:
    finished = await run("bento-outbox", "schema", "sql", "--table", "t" * (LONGEST_NAME + 1))

    assert (finished.code, finished.output) == (1, "")
    assert (
        finished.errors
        == f"Error: the table name '{'t' * (LONGEST_NAME + 1)}' is too long: 1 to {LONGEST_NAME} bytes\n"
    )
