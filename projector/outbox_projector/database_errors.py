"""What the errors of the database's driver mean: an outage, with its reason in words for people, or a defect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ssl import SSLCertVerificationError

import asyncpg

from bento_outbox import OutboxError


class DatabaseUnavailable(OutboxError):
    """The database cannot be used now. `reason` is a word from the fixed list in `docs/reasons.md`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turns what the driver raises for an unusable database into DatabaseUnavailable; lets other errors through."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
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
    (
        asyncpg.InvalidCachedStatementError,
        "DatabaseUnreachable",
        "the outbox table was altered meanwhile: the statements are prepared anew",
    ),
    (
        SSLCertVerificationError,
        "DatabaseUnreachable",
        "the certificate of the database is not trusted: renew it, give the one of its authority by spec.database.tls "
        "(OUTBOX_DATABASE_TRUSTED_CERTIFICATES_FILE), or use the name of the host that it bears",
    ),
    (
        asyncpg.ClientConfigurationError,
        "DatabaseUrlInvalid",
        "the database URL asks for what cannot be done here: sslmode=verify-ca and verify-full need certificates of "
        "authorities, by spec.database.tls (OUTBOX_DATABASE_TRUSTED_CERTIFICATES_FILE) or PGSSLROOTCERT",
    ),
    (
        FileNotFoundError,
        "DatabaseUnreachable",
        "the socket of the database, or the file that PGSSLROOTCERT names, does not exist",
    ),
]
# Classes of SQLSTATE that are an outage: connection, resources, operator intervention, system error, timeouts; and
# transactions that took, or rested, for too long.
_OUTAGE_STATES = ("08", "53", "57", "58", "40", "55", "25P03", "25P04")


def explain(error: BaseException) -> DatabaseUnavailable | None:
    """What to tell people, in words that hold no secret; None for an error that is no outage but a defect."""
    for kind, reason, sentence in _REASONS:
        if isinstance(error, kind):
            return DatabaseUnavailable(f"{sentence} ({_first_line(error)})", reason=reason)
    state = getattr(error, "sqlstate", None) or ""
    # An argument of a wrong type is an InterfaceError too, and a ValueError. InternalClientError: what the server said
    # at the end of the connection was read, the end was not.
    lost = OSError | asyncpg.InterfaceError | asyncpg.InternalClientError
    connection_lost = isinstance(error, lost) and not isinstance(error, ValueError)
    if connection_lost or state.startswith(_OUTAGE_STATES):
        return DatabaseUnavailable(
            f"the database cannot be reached ({_first_line(error)})", reason="DatabaseUnreachable"
        )
    return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
