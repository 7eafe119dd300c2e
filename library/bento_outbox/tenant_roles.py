"""Which role of the database acts for which tenant, where row-level security is on.

    bind_role(engine, "acme_app", tenant_id="acme")     its rows are acme's, to read and to write
    bind_role(engine, "shop_app", tenant_id=None)       an application that serves all tenants

The bindings are a table, `<outbox>_tenant_role`, that only the owner of the outbox can change; the policy reads it. A
setting of the session would not do: any role may SET what it likes.

A role gets what its use needs and no more:

    writer      SELECT, INSERT
    projector   SELECT, DELETE, UPDATE of the columns of delivery and of headers; what it keeps beside the outbox
    both        all of these: an application that also publishes directly
    operator    as projector, but nothing beside the outbox: `bento-outbox errors`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import MetaData, Table, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bento_outbox.ddl import renamed, script
from bento_outbox.errors import MisuseError, SchemaError
from bento_outbox.schema import apply_command, has_row_level_security
from bento_outbox.sql_files import LANE_TABLES, named_statements
from bento_outbox.table import quoted

Use = Literal["writer", "projector", "both", "operator"]

_COLUMNS = "status, retry_cnt, available_at, last_error, sent_at"
_REQUEUE_AND_DELETE = f"SELECT, DELETE, UPDATE ({_COLUMNS}, headers)"
_PRIVILEGES: dict[Use, str] = {
    "writer": "SELECT, INSERT",
    "projector": _REQUEUE_AND_DELETE,
    "both": f"INSERT, {_REQUEUE_AND_DELETE}",
    "operator": _REQUEUE_AND_DELETE,
}
_BESIDE: dict[Use, str] = dict.fromkeys(("projector", "both"), "SELECT, INSERT, UPDATE, DELETE")
"""On each table that the projector keeps beside the outbox."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A role and its tenant; None for all tenants. use: what it may do with the rows, None if nothing any more."""

    role: str
    tenant_id: str | None
    use: Use | None


async def bind_role(
    engine: AsyncEngine,
    role: str,
    *,
    tenant_id: str | None,
    use: Use = "writer",
    table: str = "outbox",
    schema: str | None = None,
) -> None:
    """From now on `role` reads and writes the rows of `tenant_id`, or of all tenants if that is None.

    A role of one tenant loses whatever else it may do with the table; one of all tenants keeps it, and may be bound
    before row-level security is turned on, so that turning it on interrupts nothing.
    Raises MisuseError when the role cannot be held to its tenant, SchemaError when the table is not protected.
    """
    if tenant_id == "":
        raise MisuseError("a tenant's id is not empty: name the tenant, or bind the role to all tenants")
    async with engine.begin() as connection:
        bindings = await _Bindings.of(connection, table, schema)
        if tenant_id is not None:
            await bindings.require_protection()
        await bindings.create()
        await bindings.check_role(role, tenant_id)
        await bindings.grant(role, use, only=tenant_id is not None)
        if tenant_id is not None:
            await bindings.check_privileges(role)
        values = {"role": role, "tenant_id": tenant_id, "all_tenants": tenant_id is None}
        await connection.execute(bindings.statement("bind"), values)


async def unbind_role(engine: AsyncEngine, role: str, *, table: str = "outbox", schema: str | None = None) -> None:
    """From now on `role` can do nothing with the outbox. Raises MisuseError when it was not bound."""
    async with engine.begin() as connection:
        bindings = await _Bindings.of(connection, table, schema)
        bindings.require_bindings()
        if (await connection.execute(bindings.statement("unbind"), {"role": role})).first() is None:
            raise MisuseError(f"role {role} is not bound: `bento-outbox tenants list` shows those that are")
        if await bindings.exists(role):
            await bindings.revoke(role)


async def bound_roles(engine: AsyncEngine, *, table: str = "outbox", schema: str | None = None) -> list[Binding]:
    """All bindings, by the name of the role. Raises SchemaError when there never were any."""
    async with engine.connect() as connection:
        bindings = await _Bindings.of(connection, table, schema)
        bindings.require_bindings()
        rows = await connection.execute(bindings.statement("list"), bindings.names)
        return [Binding(row.role_name, row.tenant_id, _use(row.writes, row.settles, row.owns_lanes)) for row in rows]


def _use(writes: bool, settles: bool, owns_lanes: bool) -> Use | None:
    if owns_lanes:
        return "both" if writes else "projector"
    if settles:
        return "both" if writes else "operator"
    return "writer" if writes else None


class _Bindings:
    """The bindings of one outbox table, in one transaction."""

    def __init__(self, connection: AsyncConnection, table: str, schema: str | None) -> None:
        self._connection = connection
        self._key = (table, schema)
        self._outbox = Table(table, MetaData(), schema=schema)
        self._roles = Table(f"{table}_tenant_role", MetaData(), schema=schema)
        self._beside = [Table(table + suffix, MetaData(), schema=schema) for suffix in LANE_TABLES]
        self._name = f"{schema}.{table}" if schema else table
        self._cure = apply_command(table, schema, row_level_security=True)
        self.names = {
            "table": quoted(self._outbox, bare=True),
            "roles_table": quoted(self._roles, bare=True),
            "lane_table": quoted(Table(f"{table}_lane", MetaData(), schema=schema), bare=True),
        }
        self._there = False
        self._owner = self._quoted_schema = ""

    @classmethod
    async def of(cls, connection: AsyncConnection, table: str, schema: str | None) -> _Bindings:
        """Looks at what is there. Raises SchemaError when there is no outbox."""
        found = cls(connection, table, schema)
        seen = (await connection.execute(found.statement("look"), found.names)).first()
        if seen is None:
            raise SchemaError(f"table {found._name} does not exist: run {found._cure}")
        found._there, found._owner, found._quoted_schema = seen.has_bindings, seen.owner, seen.quoted_schema
        return found

    def statement(self, name: str) -> TextClause:
        """A statement of `tenant_roles.sql`."""
        table, schema = self._key
        return text(renamed(named_statements("bento_outbox", "tenant_roles.sql")[name], table=table, schema=schema))

    def require_bindings(self) -> None:
        if not self._there:
            raise SchemaError(f"no role was ever bound for table {self._name}: run {self._cure}")

    async def require_protection(self) -> None:
        protected = await self._connection.run_sync(lambda sync: has_row_level_security(sync, *self._key))
        if not protected:
            raise SchemaError(
                f"row-level security of table {self._name} is off, so the role would see the rows of all tenants: "
                f"run {self._cure}"
            )

    async def create(self) -> None:
        """The table of bindings, where row-level security is still to come."""
        if self._there:
            return
        table, schema = self._key
        for ddl in script("bento_outbox.migrations", "tenant_role_table.sql", table=table, schema=schema):
            await self._connection.execute(text(ddl))

    async def exists(self, role: str) -> bool:
        found = await self._connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role})
        return found.first() is not None

    async def check_role(self, role: str, tenant_id: str | None) -> None:
        """Raises MisuseError unless the role exists and the policy would hold it."""
        if not await self.exists(role):
            raise MisuseError(f"there is no role {role}: create it with CREATE ROLE … LOGIN")
        if role == self._owner:
            raise MisuseError(f"role {role} owns table {self._name}, so it sees all rows anyway: bind another role")
        if tenant_id is None:
            return
        beyond = await self._one("beyond", {"role": role, "table": self.names["table"]})
        if beyond == role:
            raise MisuseError(f"role {role} is a superuser or has BYPASSRLS, so it cannot be held to one tenant")
        if beyond is not None:
            raise MisuseError(
                f"role {role} may become {beyond}, which row-level security does not hold: revoke that membership"
            )
        other = await self._one("other_tenants", {"role": role, "tenant_id": tenant_id})
        if other is not None:
            raise MisuseError(f"role {role} may become {other}, which is bound otherwise: revoke that membership")

    async def check_privileges(self, role: str) -> None:
        """Raises MisuseError when something is left that goes round the policy."""
        if await self._one("unprotected", {"role": role, "tables": list(self.names.values())}):
            raise MisuseError(
                f"role {role} may TRUNCATE table {self._name}, or put triggers on it, through PUBLIC or another role: "
                f"revoke that first"
            )

    async def grant(self, role: str, use: Use, *, only: bool) -> None:
        if only:
            await self.revoke(role)
        await self._run(f"GRANT {_PRIVILEGES[use]} ON {quoted(self._outbox)} TO {_quoted(role)}")
        if use in _BESIDE:
            await self._run(f"GRANT {_BESIDE[use]} ON {', '.join(map(quoted, self._beside))} TO {_quoted(role)}")
        if await self._one("lacks_schema", {"role": role, "table": self.names["table"]}):
            schema = self._quoted_schema.replace(":", r"\:")
            await self._run(f"GRANT USAGE ON SCHEMA {schema} TO {_quoted(role)}")

    async def revoke(self, role: str) -> None:
        tables = ", ".join(map(quoted, (self._outbox, self._roles, *self._beside)))
        await self._run(f"REVOKE ALL ON {tables} FROM {_quoted(role)}")

    async def _run(self, ddl: str) -> None:
        await self._connection.execute(text(ddl))

    async def _one(self, name: str, values: dict[str, Any]) -> Any:
        return (await self._connection.execute(self.statement(name), values)).scalar()


def _quoted(identifier: str) -> str:
    return quoted(Table(identifier, MetaData()))
