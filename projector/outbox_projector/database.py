"""The connection to Postgres: where its address comes from, and what its errors mean.

The address is a file, mounted from a Secret. The file may be missing at first and may change at any time (a
rotated password): it is looked at again whenever a session is opened, so neither needs a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import asyncpg
from sqlalchemy import Dialect, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from bento_outbox import MisuseError, OutboxError
from bento_outbox.database_url import parse_database_url

CONNECT_TIMEOUT_SECONDS = 10
COMMAND_TIMEOUT_SECONDS = 60
MOST_CONNECTIONS = 6
"""Of a process: its lanes take turns at them, with looks, measurements, requests and retention; a trial of the listener
needs two."""

UNNAMED_STATEMENTS = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
"""For asyncpg and for SQLAlchemy: each statement is prepared anew, without a name. Behind a pooler that shares
connections between transactions, a name may be taken already, or unknown in the next one. Costs a round trip each."""


class DatabaseUnavailable(OutboxError):
    """The database cannot be used now. `reason` is a word from the fixed list in `docs/reasons.md`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UrlSource(Protocol):
    """Says where the database is. Raises DatabaseUnavailable when it does not know (yet)."""

    def read(self) -> str: ...


class UrlFile:
    """The URL as the content of a file, which a Secret fills."""

    def __init__(self, path: Path, secret: str) -> None:
        """secret: `name/key`, for messages."""
        name, _, key = secret.partition("/")
        self._path = path
        self._secret = f"Secret {name!r} with key {key!r}"

    def read(self) -> str:
        try:
            return self._path.read_text().strip()
        except FileNotFoundError as error:
            raise DatabaseUnavailable(
                f"{self._secret} does not exist: create it with the database URL", reason="SecretNotFound"
            ) from error
        except OSError as error:
            raise DatabaseUnavailable(
                f"{self._secret} cannot be read: {error.strerror}", reason="SecretNotFound"
            ) from error
        except UnicodeDecodeError:
            # The cause would show the content.
            raise DatabaseUnavailable(f"{self._secret} holds no text", reason="DatabaseUrlInvalid") from None


class FixedUrl:
    """The URL as given."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self) -> str:
        return self._url


class Database:
    """Opens sessions and connections; a new engine whenever the URL has changed."""

    def __init__(self, source: UrlSource, *, name: str = "outbox-projector") -> None:
        """name: by which people find the connections in pg_stat_activity."""
        self._source = source
        self._connect_args = {
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": COMMAND_TIMEOUT_SECONDS,
            "server_settings": {"application_name": name},
        }
        self._url = ""
        self._engine: AsyncEngine | None = None
        self._shares = False  # whether connections are a pooler's, and those of the server behind it shared
        self._changed: Callable[[], None] = lambda: None
        self._open: dict[Any, ConnectionPoolEntry] = {}  # by the driver's connection
        self._retired: set[asyncio.Task[None]] = set()

    def __call__(self) -> AsyncSession:
        """A session. Raises DatabaseUnavailable when the URL is missing or no URL."""
        return AsyncSession(self._current(), expire_on_commit=False)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement is a transaction. Raises DatabaseUnavailable."""
        async with translated(), self._current().connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    def on_change(self, call: Callable[[], None]) -> None:
        """`call` when the URL has changed."""
        self._changed = call

    async def close_idle(self, *, but: object) -> None:
        """Closes the connections that nobody uses just now, but for this one (of the driver), which is used next."""
        idle = [driver for driver, entry in self._open.items() if not entry.in_use]
        engine = self._engine
        if engine is None or all(driver is but for driver in idle):
            return
        async with AsyncExitStack() as returning:
            # The last in is the first out: those that have been closed lie below.
            for connection in [await returning.enter_async_context(engine.connect()) for _ in idle]:
                if (await connection.get_raw_connection()).driver_connection is not but:
                    await connection.invalidate()
                    await connection.close()

    def _current(self) -> AsyncEngine:
        url = self._source.read()
        if self._engine is None or url != self._url:
            if self._engine is not None:
                self._changed()
            self._retire()
            try:
                address = parse_database_url(url)
            except MisuseError as error:
                raise DatabaseUnavailable(str(error), reason="DatabaseUrlInvalid") from error
            self._engine = create_async_engine(
                address, pool_size=MOST_CONNECTIONS, max_overflow=0, pool_use_lifo=True, connect_args=self._connect_args
            )
            self._shares = False
            event.listen(self._engine.sync_engine, "do_connect", self._connect)
            event.listen(self._engine.sync_engine, "connect", self._opened)
            self._url = url
        return self._engine

    async def close(self) -> None:
        """Closes the connections."""
        self._retire()
        await asyncio.gather(*self._retired)

    def _connect(
        self, dialect: Dialect, _: object, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> DBAPIConnection:
        if not self._shares:
            connection: Any = dialect.connect(*arguments, **options)
            # A pooler greets with a process id of its own making.
            if connection.run_async(_process_id) == connection.driver_connection.get_server_pid():
                return cast(DBAPIConnection, connection)
            connection.close()
            self._shares = True
        return dialect.connect(*arguments, **options, **UNNAMED_STATEMENTS)

    def _opened(self, connection: Any, entry: ConnectionPoolEntry) -> None:
        driver = connection.driver_connection
        self._open[driver] = entry

        def ended(_: object) -> None:
            del self._open[driver]
            if entry.driver_connection is driver:
                # By the server: it is replaced, instead of failing whoever uses it next.
                entry.invalidate(soft=True)

        driver.add_termination_listener(ended)

    def _retire(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            # One that is in use now is closed when it is given back.
            event.listen(engine.sync_engine.pool, "checkin", lambda _, entry: entry.close())
            task = asyncio.create_task(engine.dispose(), name="close the connections of a former database URL")
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)


async def _process_id(driver: asyncpg.Connection) -> int:
    statement = await driver.prepare("SELECT pg_backend_pid()", name="")
    process_id: int = await statement.fetchval()
    return process_id


@asynccontextmanager
async def autocommitting(session_factory: Callable[[], AsyncSession]) -> AsyncIterator[AsyncSession]:
    """A session in which each statement is a transaction, without BEGIN and COMMIT around it."""
    async with session_factory() as session:
        await session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        yield session


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turns what the driver raises for an unusable database into DatabaseUnavailable; lets other errors through."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnavailable(
            f"the database did not answer: all {MOST_CONNECTIONS} connections are waiting for it",
            reason="DatabaseUnreachable",
        ) from error
    except (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        unavailable = explain(error)
        if unavailable is None:
            raise
        raise unavailable from error


_REASONS: list[tuple[type[BaseException], str, str]] = [
    (
        asyncpg.InvalidPasswordError,
        "DatabaseAuthenticationFailed",
        "the database does not accept user or password",
    ),
    (
        asyncpg.InvalidAuthorizationSpecificationError,
        "DatabaseAuthenticationFailed",
        "the database does not accept user or password",
    ),
    (asyncpg.InvalidCatalogNameError, "DatabaseNotFound", "the server has no such database"),
    (
        asyncpg.UndefinedTableError,
        "OutboxTableMissing",
        "the outbox table is missing: run `bento-outbox schema apply`",
    ),
    (asyncpg.InvalidSchemaNameError, "OutboxTableMissing", "the schema of the outbox table is missing"),
    (
        asyncpg.UndefinedColumnError,
        "OutboxTableMissing",
        "the outbox table is old: run `bento-outbox schema apply`",
    ),
    (
        asyncpg.InsufficientPrivilegeError,
        "DatabasePermissionDenied",
        "the role may not read and update the table",
    ),
    (
        asyncpg.ReadOnlySQLTransactionError,
        "DatabaseUnreachable",
        "the server is read-only: a standby, or failing over",
    ),
]
# Classes of SQLSTATE that are an outage: connection, resources, operator intervention, system error, timeouts.
_OUTAGE_STATES = ("08", "53", "57", "58", "40", "55")


def explain(error: BaseException) -> DatabaseUnavailable | None:
    """What to tell people, in words that hold no secret; None for an error that is no outage but a defect."""
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig.__cause__ or error.orig
    for kind, reason, sentence in _REASONS:
        if isinstance(cause, kind):
            return DatabaseUnavailable(f"{sentence} ({_first_line(cause)})", reason=reason)
    state = getattr(cause, "sqlstate", None) or ""
    connection_lost = isinstance(cause, OSError | asyncpg.InterfaceError) or isinstance(error, InterfaceError)
    if connection_lost or getattr(error, "connection_invalidated", False) or state.startswith(_OUTAGE_STATES):
        return DatabaseUnavailable(
            f"the database cannot be reached ({_first_line(cause)})", reason="DatabaseUnreachable"
        )
    return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
