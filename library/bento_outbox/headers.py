"""What travels beside the payload: the trace, the conversation, and the application's own pairs.

Captured when an event is registered, not when it is published: that is the moment whose trace and cause it tells of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Protocol

from bento_outbox.errors import MisuseError

CORRELATION_ID = "correlation_id"
CAUSATION_ID = "causation_id"
RESERVED = frozenset({"event_id", "type", "tenant_id", "schema_id", "schema_ver", "created_at"})
"""Properties of the message that come from columns of the row."""

_conversation: ContextVar[Mapping[str, str]] = ContextVar("bento_outbox_conversation", default={})  # noqa: B039 - never changed, only replaced


class Inject(Protocol):
    """Writes the current trace into a carrier, as OpenTelemetry's propagators do."""

    def __call__(self, carrier: MutableMapping[str, str]) -> None: ...


@contextmanager
def in_conversation(*, correlation_id: str, causation_id: str | None = None) -> Iterator[None]:
    """While the block runs, events carry these ids.

    correlation_id: of the whole conversation, the same in every message of it.
    causation_id: of the message that is being handled, the direct cause of what is registered now.
    """
    ids = {CORRELATION_ID: correlation_id} | ({CAUSATION_ID: causation_id} if causation_id else {})
    token = _conversation.set(ids)
    try:
        yield
    finally:
        _conversation.reset(token)


def capture(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers of an event registered now; `own` wins over what the context says.

    Raises MisuseError when a header is not text, or bears a name that belongs to a column.
    """
    headers: dict[str, str] = {}
    _trace_injector()(headers)
    headers.update(_conversation.get())
    if own:
        for name, value in own.items():
            if name in RESERVED:
                raise MisuseError(f"header {name!r} is the name of a property of every message: choose another")
            if not isinstance(value, str):
                raise MisuseError(f"header {name!r} is {value!r}: headers are text")
        headers.update(own)
    return headers


@cache
def _trace_injector() -> Inject:
    """OpenTelemetry's, where it is installed: W3C traceparent and tracestate by default."""
    try:
        from opentelemetry.propagate import inject
    except ImportError:
        return _no_trace
    return inject


def _no_trace(carrier: MutableMapping[str, str]) -> None:
    """There is no tracing in this process."""
