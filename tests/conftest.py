"""The fixtures of all tests: a database for the session, a tenant for each test, topics nobody else writes to.

A fresh database each session and a fresh tenant each test: nothing needs to be cleaned between tests, and tests see
nothing of each other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import aiohttp
import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from bento_outbox import InMemoryMessageBus
from bento_outbox.database_url import parse_database_url
from bento_outbox.schema import apply_schema
from tests.support.pulsar_topics import Namespaces, Topics
from tests.support.rows import Rows
from tests.support.servers import address_of


def unique(prefix: str) -> str:
    """A name that nothing else has."""
    return f"{prefix}-{uuid4().hex[:12]}"


@pytest.fixture
def tenant() -> str:
    return unique("tenant")


@pytest.fixture
def memory_bus() -> InMemoryMessageBus:
    return InMemoryMessageBus()


@pytest.fixture(scope="session")
async def new_database() -> AsyncIterator[Callable[[], Awaitable[str]]]:
    """Makes an empty database and returns its URL; all are dropped at the end of the session."""
    server = parse_database_url(address_of("DATABASE_URL"))
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    made: list[str] = []

    async def make() -> str:
        name = unique("test")
        async with engine.connect() as connection:
            await connection.execute(text(f'CREATE DATABASE "{name}"'))
        made.append(name)
        return server.set(drivername="postgresql", database=name).render_as_string(hide_password=False)

    yield make
    async with engine.connect() as connection:
        for name in made:
            await connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    await engine.dispose()


@pytest.fixture(scope="session")
async def scratch_database_url(new_database: Callable[[], Awaitable[str]]) -> str:
    """The database that tests get empty, one after the other: making and dropping one each takes ten times as long."""
    return await new_database()


@pytest.fixture
async def empty_database_url(scratch_database_url: str) -> AsyncIterator[str]:
    """A database without any table, for one test."""
    yield scratch_database_url
    engine = create_async_engine(parse_database_url(scratch_database_url), poolclass=NullPool)
    async with engine.begin() as connection:
        names = (
            "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        for name in (await connection.execute(text(names))).scalars().all():
            await connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
        await connection.exec_driver_sql("CREATE SCHEMA public")
    await engine.dispose()


@pytest.fixture
async def empty_engine(empty_database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(parse_database_url(empty_database_url), poolclass=NullPool)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
async def database_url(new_database: Callable[[], Awaitable[str]]) -> str:
    """The session's database, with the outbox table."""
    url = await new_database()
    engine = create_async_engine(parse_database_url(url), poolclass=NullPool)
    await apply_schema(engine)
    await engine.dispose()
    return url


@pytest.fixture(scope="session")
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(parse_database_url(database_url))
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def rows(sessions: async_sessionmaker[AsyncSession], tenant: str) -> Rows:
    return Rows(sessions, tenant)


@pytest.fixture(scope="session")
def pulsar_url() -> str:
    return address_of("PULSAR_URL")


@pytest.fixture(scope="session")
async def topics(pulsar_url: str) -> AsyncIterator[Topics]:
    topics = Topics(pulsar_url)
    yield topics
    await topics.close()


@pytest.fixture(scope="session")
async def namespaces() -> AsyncIterator[Namespaces]:
    async with aiohttp.ClientSession() as http:
        yield Namespaces(address_of("PULSAR_ADMIN_URL"), http)


@pytest.fixture(scope="session")
async def session_namespace(namespaces: Namespaces) -> AsyncIterator[str]:
    name = f"public/{unique('tests')}"
    await namespaces.create(name)
    yield name
    await namespaces.delete(name)


@pytest.fixture
def topic(session_namespace: str) -> str:
    """A topic for one test."""
    return f"persistent://{session_namespace}/{unique('topic')}"


@pytest.fixture
async def own_namespace(namespaces: Namespaces) -> AsyncIterator[str]:
    """A namespace for one test, which may also delete it."""
    name = f"public/{unique('test')}"
    await namespaces.create(name)
    yield name
    await namespaces.delete(name)
