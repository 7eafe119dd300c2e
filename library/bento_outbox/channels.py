"""On which channel commits tell a tenant's projector that there is something to do."""

from __future__ import annotations

import hashlib

from bento_outbox.sql_files import Named


def channel_of(table: Named, tenant_id: str) -> str:
    """The channel on which this tenant's projector listens: one per table and tenant, within Postgres' 63 bytes.

    The schema does not count: one side may name it and the other leave it to the search path.
    """
    return f"bento_outbox_{hashlib.sha256(f'{table.name}/{tenant_id}'.encode()).hexdigest()[:32]}"
