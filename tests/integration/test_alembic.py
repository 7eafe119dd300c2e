"""The outbox in an application's own Alembic history, by the real `alembic` command on the real Postgres."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from bento_outbox import InMemoryMessageBus, SchemaError, apply_schema, validate_schema
from bento_outbox.sql_files import LANE_TABLES
from outbox_projector import OutboxProjector
from tests.integration.test_schema import BARE
from tests.support.programs import Finished, run
from tests.support.rows import Rows

ENV = """
import asyncio, os
from alembic import context
from sqlalchemy import Column, MetaData, Table, Text
from sqlalchemy.ext.asyncio import create_async_engine
from bento_outbox import make_outbox_table
from bento_outbox.database_url import parse_database_url
from bento_outbox.migrations import ignore_outbox

metadata = MetaData()
Table("orders", metadata, Column("id", Text, primary_key=True))
config = context.config
{more}

def migrate(connection):
    context.configure(connection=connection, target_metadata=metadata, {options})
    with context.begin_transaction():
        context.run_migrations()

async def online():
    engine = create_async_engine(parse_database_url(os.environ["DATABASE_URL"]))
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(online())
"""
ORDERS = """
from alembic import op
import sqlalchemy as sa
revision, down_revision = "app_1", None

def upgrade():
    op.create_table("orders", sa.Column("id", sa.Text, primary_key=True))

def downgrade():
    op.drop_table("orders")
"""
OUTBOX = """
from alembic import op
from bento_outbox.migrations import downgrade_outbox, upgrade_outbox
revision, down_revision = "app_2", "app_1"

def upgrade():
    upgrade_outbox(op{upgrade})

def downgrade():
    downgrade_outbox(op{downgrade})
"""
PROTECTED = """
from alembic import op
from bento_outbox.migrations import enable_row_level_security
revision, down_revision = "app_3", "app_2"

def upgrade():
    enable_row_level_security(op)

def downgrade():
    pass
"""
TEMPLATE = """
revision, down_revision = ${repr(up_revision)}, ${repr(down_revision)}

def upgrade():
    ${upgrades if upgrades else "pass"}

def downgrade():
    ${downgrades if downgrades else "pass"}
"""


class Project:
    """An application with its own history, in a folder."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self._url = database_url

    def write(
        self, *, revisions: dict[str, str], locations: str = "%(here)s/versions", more: str = "", options: str = ""
    ) -> Project:
        config = configparser.RawConfigParser()
        config["alembic"] = {
            "script_location": "%(here)s",
            "path_separator": "newline",
            "version_locations": locations,
        }
        with (self.folder / "alembic.ini").open("w") as file:
            config.write(file)
        (self.folder / "env.py").write_text(ENV.format(more=more, options=options))
        (self.folder / "script.py.mako").write_text(TEMPLATE)
        (self.folder / "versions").mkdir(exist_ok=True)
        for name, source in revisions.items():
            (self.folder / "versions" / f"{name}.py").write_text(source)
        return self

    async def alembic(self, *arguments: str) -> Finished:
        """Runs the command, which must succeed."""
        finished = await self.attempt(*arguments)
        assert finished.code == 0, finished.errors + finished.output
        return finished

    async def attempt(self, *arguments: str) -> Finished:
        return await run("alembic", "-c", str(self.folder / "alembic.ini"), *arguments, DATABASE_URL=self._url)


BESIDE = "%(here)s/versions\nbento_outbox:migrations/versions"
WITH_TABLE = "make_outbox_table(metadata)"


@pytest.fixture
def project(tmp_path: Path, empty_database_url: str) -> Project:
    return Project(tmp_path, empty_database_url)


@pytest.fixture(params=["as a branch beside it", "from one of its revisions"])
def either(request: pytest.FixtureRequest, project: Project) -> Project:
    """A project that takes the outbox into its history, in either way."""
    if request.param == "as a branch beside it":
        return project.write(revisions={"app_1": ORDERS}, locations=BESIDE, more=WITH_TABLE)
    return project.write(revisions={"app_1": ORDERS, "app_2": OUTBOX.format(upgrade="", downgrade="")}, more=WITH_TABLE)


async def _tables(engine: AsyncEngine, schema: str = "public") -> set[str]:
    async with engine.connect() as connection:
        names = text("SELECT tablename FROM pg_tables WHERE schemaname = :schema")
        return set((await connection.execute(names, {"schema": schema})).scalars())


async def test_up_and_down(either: Project, empty_engine: AsyncEngine) -> None:
    await either.alembic("upgrade", "heads")
    await validate_schema(empty_engine)
    assert await _tables(empty_engine) == {
        *("alembic_version", "orders"),
        *("outbox", *(f"outbox{suffix}" for suffix in LANE_TABLES)),
    }

    await either.alembic("downgrade", "base")
    assert await _tables(empty_engine) == {"alembic_version"}

    await either.alembic("upgrade", "heads")
    await validate_schema(empty_engine)


async def test_offline(either: Project, empty_engine: AsyncEngine, empty_database_url: str) -> None:
    printed = await either.alembic("upgrade", "heads", "--sql")

    applied = await run("psql", "-v", "ON_ERROR_STOP=1", "-q", empty_database_url, given=printed.output)

    assert (applied.code, applied.errors) == (0, "")
    await validate_schema(empty_engine)
    # Alembic goes on where the script ended.
    assert "Running upgrade" not in (await either.alembic("upgrade", "heads")).errors


async def test_bare_columns_with_rows_are_upgraded(
    either: Project, empty_engine: AsyncEngine, memory_bus: InMemoryMessageBus
) -> None:
    async with empty_engine.begin() as connection:
        for statement in BARE.split(";\n"):
            await connection.execute(text(statement))

    await either.alembic("upgrade", "heads")

    await validate_schema(empty_engine)
    sessions = async_sessionmaker(empty_engine)
    rows = await Rows(sessions, "acme").all()
    assert [row.seq for row in rows] == list(range(1, 31))
    assert {row.status for row in rows} == {"NEW", "SENT", "ERR"}
    await OutboxProjector(sessions, memory_bus, "acme").drain()
    assert len(memory_bus.published) == 10


async def test_a_table_that_the_command_made_is_taken_over(either: Project, empty_engine: AsyncEngine) -> None:
    await apply_schema(empty_engine)
    await Rows(async_sessionmaker(empty_engine), "acme").insert()

    await either.alembic("upgrade", "heads")

    await validate_schema(empty_engine)
    assert len(await Rows(async_sessionmaker(empty_engine), "acme").all()) == 1


async def test_autogenerate_finds_no_difference_to_the_metadata(either: Project) -> None:
    """With `make_outbox_table` in the metadata nothing need be ignored: columns, types, defaults and index agree."""
    either.write(
        revisions={},
        locations=BESIDE if not (either.folder / "versions" / "app_2.py").exists() else "%(here)s/versions",
        more=WITH_TABLE,
        options="compare_type=True, compare_server_default=True",
    )
    await either.alembic("upgrade", "heads")

    checked = await either.alembic("check")

    assert "No new upgrade operations detected" in checked.output + checked.errors


@pytest.mark.parametrize("more", [WITH_TABLE, ""], ids=["in the metadata", "not in the metadata"])
async def test_autogenerate_leaves_an_outbox_alone_that_others_made(
    project: Project, empty_engine: AsyncEngine, more: str
) -> None:
    """With its side tables: those of row-level security and of our own version."""
    project.write(revisions={"app_1": ORDERS}, more=more)
    await project.alembic("upgrade", "heads")
    await apply_schema(empty_engine, row_level_security=True)
    assert (await project.attempt("check")).code != 0

    project.write(revisions={}, more=more, options="include_object=ignore_outbox()")

    await project.alembic("check")


async def test_autogenerate_does_not_make_the_table_a_second_time(project: Project, empty_engine: AsyncEngine) -> None:
    project.write(revisions={"app_1": ORDERS}, more=WITH_TABLE, options="include_object=ignore_outbox()")
    await project.alembic("upgrade", "heads")

    await project.alembic("check")

    assert "outbox" not in await _tables(empty_engine)


NAMES = {"table": 'Order "Events"', "schema": "My Shop"}


@pytest.mark.parametrize("way", ["beside", "own"])
@pytest.mark.parametrize("mode", ["online", "offline"])
async def test_with_other_names_and_row_level_security(
    project: Project, empty_engine: AsyncEngine, empty_database_url: str, way: str, mode: str
) -> None:
    options = NAMES | {"row_level_security": True}
    if way == "beside":
        more = f"config.attributes['bento_outbox'] = {options!r}"
        project.write(revisions={"app_1": ORDERS}, locations=BESIDE, more=more)
    else:
        outbox = OUTBOX.format(upgrade=f", **{options!r}", downgrade=f", **{NAMES!r}")
        project.write(revisions={"app_1": ORDERS, "app_2": outbox})
    async with empty_engine.begin() as connection:
        await connection.execute(text('CREATE SCHEMA "My Shop"'))

    if mode == "online":
        await project.alembic("upgrade", "heads")
    else:
        printed = await project.alembic("upgrade", "heads", "--sql")
        applied = await run("psql", "-v", "ON_ERROR_STOP=1", "-q", empty_database_url, given=printed.output)
        assert applied.code == 0, applied.errors

    await validate_schema(empty_engine, **NAMES, row_level_security=True)
    await project.alembic("downgrade", "base")
    assert await _tables(empty_engine, "My Shop") == set()


async def test_row_level_security_can_come_later(project: Project, empty_engine: AsyncEngine) -> None:
    project.write(revisions={"app_1": ORDERS, "app_2": OUTBOX.format(upgrade="", downgrade="")})
    await project.alembic("upgrade", "heads")
    with pytest.raises(SchemaError, match="is off"):
        await validate_schema(empty_engine, row_level_security=True)

    project.write(revisions={"app_3": PROTECTED})
    await project.alembic("upgrade", "heads")

    await validate_schema(empty_engine, row_level_security=True)
