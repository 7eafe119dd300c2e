"""What travels beside the payload: the trace, the conversation, and the application's own pairs.

Captured when an event is registered, not when it is published: that is the moment whose trace and cause it tells of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

from bento_outbox.errors import MisuseError
from bento_outbox.stored_text import stored_text

CORRELATION_ID = "correlation_id"
CAUSATION_ID = "causation_id"
REQUEUED_AT = "requeued_at"
"""On an event that had failed and was requeued: when (RFC 3339). Later events of its aggregate may have come before."""
COLUMNS = frozenset({"event_id", "type", "tenant_id", "aggregate_id", "schema_id", "schema_ver", "created_at"})
"""Properties of the message that come from columns of the row."""
RESERVED = COLUMNS | {REQUEUED_AT}
"""Names that no header of an application bears."""

_conversation: ContextVar[Mapping[str, str]] = ContextVar("bento_outbox_conversation", default={})  # noqa: B039 - never changed, only replaced


@contextmanager
def in_conversation(*, correlation_id: str, causation_id: str | None = None) -> Iterator[None]:
    """While the block runs, events carry these ids.

    correlation_id: of the whole conversation, the same in every message of it.
    causation_id: of the message that is being handled, the direct cause of what is registered now.
    Raises MisuseError when one is no text.
    """
    ids = {CORRELATION_ID: correlation_id} | ({CAUSATION_ID: causation_id} if causation_id else {})
    token = _conversation.set({name: stored_text(name, value) for name, value in ids.items()})
    try:
        yield
    finally:
        _conversation.reset(token)


def capture(own: Mapping[str, str] | None = None) -> dict[str, str]:
    """The headers of an event registered now; `own` wins over what the context says.

    Raises MisuseError when a header is not text, or bears a name of ours.
    """
    headers = {**_trace()(), **_conversation.get()}
    if own:
        for name, value in own.items():
            if name in RESERVED:
                raise MisuseError(f"header {name!r} is the name of a property that we set: choose another")
            headers[stored_text("the name of a header", name)] = stored_text(f"header {name!r}", value)
    return headers


@cache
def _trace() -> Callable[[], Mapping[str, str]]:
    """Tells the current trace as OpenTelemetry propagates it, where it is installed: traceparent and tracestate."""
    try:
        from opentelemetry.context import Context, get_current
        from opentelemetry.propagate import inject
    except ImportError:
        return dict
    last: tuple[Context | None, dict[str, str]] = (None, {})

    def current_trace() -> Mapping[str, str]:
        # Contexts are immutable and most events of a transaction share one; composing it anew costs 20 µs.
        nonlocal last
        context = get_current()
        known, carrier = last
        if context is not known:
            found: dict[str, str] = {}
            inject(found, context=context)
            # Not its baggage: what a request brought along is not for everybody who reads the topic.
            carrier = {name: value for name, value in found.items() if name != "baggage"}
            last = (context, carrier)
        return carrier

    return current_trace
