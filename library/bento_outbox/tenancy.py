"""Whose event it is.

In order of precedence: the call's own `tenant_id`; what the Outbox was configured with, a name or a callable; the
tenant of the context, which a web framework's middleware sets with `acting_for`. Missing is an error: an event of
nobody would be delivered to nobody, silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bento_outbox.errors import TenantMissing
from bento_outbox.stored_text import stored_text

TenantSource = str | Callable[[], str | None] | None

_tenant: ContextVar[str | None] = ContextVar("bento_outbox_tenant", default=None)


@contextmanager
def acting_for(tenant_id: str) -> Iterator[None]:
    """While the block runs, events of this context and of tasks started in it belong to `tenant_id`."""
    token = _tenant.set(tenant_id)
    try:
        yield
    finally:
        _tenant.reset(token)


def resolve_tenant(given: str | None, configured: TenantSource) -> str:
    """The tenant of an event. Raises TenantMissing, also when one says the empty text: others are not asked then.

    Raises MisuseError when it is no text.
    """
    found: object = given
    if found is None:
        found = configured() if callable(configured) else configured
    if found is None:
        found = _tenant.get()
    if found is None or found == "":
        raise TenantMissing(
            "the event has no tenant: pass tenant_id, configure Outbox(tenant=...), "
            "or run the code inside `with acting_for(tenant_id)`"
        )
    return stored_text("the tenant", found)
