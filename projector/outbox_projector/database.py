"""The connections to Postgres: where its address comes from, and who uses which.

The address is a file, mounted from a Secret. The file may be missing at first and may change at any time (a
rotated password): it is looked at again whenever a connection is wanted, so neither needs a restart.

The pool is our own because one of its connections listens (`listener.py`) while others use it: asyncpg's takes a
listener away from whatever is given back, and closes what has been idle, be it the one that listens.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from bento_outbox import MisuseError
from bento_outbox.database_address import DatabaseAddress, parse_database_address
from outbox_projector.database_errors import DatabaseUnavailable, translated
from outbox_projector.database_tls import tls_options
from outbox_projector.flights import LEASE_SECONDS

Connect = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]
"""Lends a connection, on which each statement is a transaction unless one is begun. Raises what the driver raises, or
DatabaseUnavailable."""

CONNECT_TIMEOUT_SECONDS = 10
COMMAND_TIMEOUT_SECONDS = 60
CLOSE_SECONDS = 5
CANCEL_SECONDS = 1
"""For the server to hear that a statement is not waited for any more."""
WAIT_SECONDS = 30
"""For a connection, while all are in use."""
SILENT_SECONDS = LEASE_SECONDS
"""Within a transaction; then the server ends it. Of a machine that was lost it hears nothing, and would keep its locks
for hours: nobody could take over its lanes, though their leases have run out."""
MOST_CONNECTIONS = 6
"""Of a process: its lanes take turns at them, with looks, measurements, requests and retention; a trial of the listener
needs two."""
_INTERRUPTIONS = (
    asyncio.CancelledError,
    TimeoutError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
)


@asynccontextmanager
async def connected(connect: Connect) -> AsyncIterator[asyncpg.Connection]:
    """A connection. Raises DatabaseUnavailable."""
    async with translated(), connect() as connection:
        yield connection


@asynccontextmanager
async def transaction(connect: Connect) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction of its own, which ends with our silence. Raises DatabaseUnavailable."""
    milliseconds = round(SILENT_SECONDS * 1000)
    async with translated(), connect() as connection:
        # One round trip; and no setting for a pooler's next client. The second counts where the server has more to say
        # than fits into a network in which nobody listens.
        await connection.execute(
            f"BEGIN; SET LOCAL idle_in_transaction_session_timeout = {milliseconds}; "
            f"SET LOCAL tcp_user_timeout = {milliseconds}"
        )
        try:
            yield connection
        except _INTERRUPTIONS:
            raise  # the connection ends, and the transaction with it
        except BaseException:
            if not connection.is_closed():
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


@asynccontextmanager
async def ended_by_interruptions(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """After one the connection is not used again: it may have begun a transaction of which nobody was told, or lead to
    a server that is a standby now, and stays one while the name leads to another."""
    try:
        yield
    except _INTERRUPTIONS:
        # Not without a word: what nobody waits for any more would wait at the server, for a lock perhaps for hours, and
        # with each further attempt one more.
        await _closed(connection, within=CANCEL_SECONDS)
        raise


async def _closed(connection: asyncpg.Connection, *, within: float) -> None:
    """Cancels what is under way and closes; the other side may not answer."""
    driver = asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresError
    with contextlib.suppress(OSError, TimeoutError, *driver):
        await connection.close(timeout=within)


class UrlSource(Protocol):
    """Says where the database is. Raises DatabaseUnavailable when it does not know (yet)."""

    def read(self) -> str: ...


class UrlFile:
    """The URL as the content of a file, which a Secret fills."""

    def __init__(self, path: Path, secret: str | None) -> None:
        """secret: `name/key`, for messages; None: they name the file."""
        self._path = path
        self._called = f"file {path}"
        if secret is not None:
            name, _, key = secret.partition("/")
            self._called = f"Secret {name!r} with key {key!r}"

    def read(self) -> str:
        try:
            return self._path.read_text().strip()
        except FileNotFoundError as error:
            raise DatabaseUnavailable(
                f"{self._called} does not exist: create it with the database URL", reason="SecretNotFound"
            ) from error
        except OSError as error:
            raise DatabaseUnavailable(
                f"{self._called} cannot be read: {error.strerror}", reason="SecretNotFound"
            ) from error
        except UnicodeDecodeError:
            # The cause would show the content.
            raise DatabaseUnavailable(f"{self._called} holds no text", reason="DatabaseUrlInvalid") from None


class FixedUrl:
    """The URL as given."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self) -> str:
        return self._url


class Database:
    """Lends connections; new ones whenever the URL has changed."""

    def __init__(
        self, source: UrlSource, *, name: str = "outbox-projector", trusted_certificates_file: Path | None = None
    ) -> None:
        """name: by which people find the connections in pg_stat_activity. The file: see `tls_options`."""
        self._source = source
        self._name = name
        self._trusted_certificates_file = trusted_certificates_file
        self._url = ""
        self._pool: _Pool | None = None
        self._changed: Callable[[], None] = lambda: None

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[asyncpg.Connection]:
        """See Connect. Raises DatabaseUnavailable when the URL or the trusted certificates are missing, or none."""
        pool = self._current()
        connection = await pool.take()
        try:
            async with ended_by_interruptions(connection):
                yield connection
        finally:
            pool.give_back(connection)

    def on_change(self, call: Callable[[], None]) -> None:
        """`call` when the URL has changed."""
        self._changed = call

    async def close_idle(self, *, but: object) -> None:
        """Closes the connections that nobody uses just now, but for this one, which is used next."""
        if self._pool is not None:
            await self._pool.close_idle(but=but)

    async def close(self) -> None:
        """Closes the connections; those in use when they are given back."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close_idle()
            pool.abandon()

    def _current(self) -> _Pool:
        url = self._source.read()
        if self._pool is None or url != self._url:
            if self._pool is not None:
                self._pool.abandon()
                self._pool = None
                self._changed()
            try:
                address = parse_database_address(url)
            except MisuseError as error:
                raise DatabaseUnavailable(str(error), reason="DatabaseUrlInvalid") from error
            self._pool, self._url = _Pool(address, self._name, self._trusted_certificates_file), url
        return self._pool


class _Pool:
    """At most so many connections to one address. The last one given back is the first taken, so that others age."""

    def __init__(self, address: DatabaseAddress, name: str, trusted_certificates_file: Path | None) -> None:
        self._options = {
            "host": address.host,
            "port": address.port,
            "user": address.user,
            "password": address.password,
            "database": address.database,
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": COMMAND_TIMEOUT_SECONDS,
            "server_settings": {"application_name": name},
        }
        self._tls = partial(tls_options, address.sslmode, trusted_certificates_file)
        self._shares = False  # whether connections are a pooler's, and those of the server behind it shared
        self._free = asyncio.Semaphore(MOST_CONNECTIONS)
        self._idle: list[asyncpg.Connection] = []
        self._abandoned = False

    async def take(self) -> asyncpg.Connection:
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._free.acquire()
        except TimeoutError as error:
            raise DatabaseUnavailable(
                f"the database did not answer: all {MOST_CONNECTIONS} connections are waiting for it",
                reason="DatabaseUnreachable",
            ) from error
        try:
            while self._idle:
                connection = self._idle.pop()
                if not connection.is_closed():  # by the server
                    return connection
            return await self._connect()
        except BaseException:
            self._free.release()
            raise

    def give_back(self, connection: asyncpg.Connection) -> None:
        self._free.release()
        if connection.is_closed():
            return
        if self._abandoned or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close_idle(self, *, but: object = None) -> None:
        closing = [connection for connection in self._idle if connection is not but]
        self._idle = [connection for connection in self._idle if connection is but]
        for connection in closing:
            await _closed(connection, within=CLOSE_SECONDS)

    def abandon(self) -> None:
        """Ends without a word what is idle, and what is in use when it is given back: the other side may not answer."""
        self._abandoned = True
        while self._idle:
            self._idle.pop().terminate()

    async def _connect(self) -> asyncpg.Connection:
        if not self._shares:
            connection = await asyncpg.connect(**self._options, **self._tls())
            try:
                # A pooler greets with a process id of its own making.
                if await _process_id(connection) == connection.get_server_pid():
                    return connection
            except BaseException:
                connection.terminate()
                raise
            connection.terminate()
            self._shares = True
        # Each statement is prepared anew, without a name: behind a pooler that shares connections between transactions
        # a name may be taken already, or unknown in the next one. Costs a round trip each.
        return await asyncpg.connect(**self._options, **self._tls(), statement_cache_size=0)


async def _process_id(connection: Any) -> int:
    statement = await connection.prepare("SELECT pg_backend_pid()", name="")
    process_id: int = await statement.fetchval()
    return process_id
