"""Prometheus metrics of one projector. Every name carries its unit; all have the label `tenant`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest


class Metrics:
    """The metrics, in a registry of their own."""

    def __init__(self, tenant_id: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # each counter's time of birth, as one more series: nobody asks for it
        self._registry = CollectorRegistry()
        self._tenant_id = tenant_id
        self.published = self._counter("outbox_events_published", "Events that the broker acknowledged")
        self.retried = self._counter("outbox_events_retried", "Refusals after which an event is tried again")
        self.failed = self._counter("outbox_events_failed", "Events that became ERR")
        self.deleted = self._counter("outbox_events_deleted", "Rows in SENT or ERR that were deleted for their age")
        self.perhaps_doubled = self._counter(
            "outbox_events_perhaps_doubled", "Events sent again to a broker that cannot tell whether it has them"
        )
        self.pending = self._gauge("outbox_pending_events", "Rows in NEW, counted up to 100,000")
        self.errors = self._gauge("outbox_error_events", "Rows in ERR, counted up to 100,000")
        self.oldest_pending_seconds = self._gauge("outbox_oldest_pending_seconds", "Age of the oldest row in NEW")
        self.database_up = self._gauge("outbox_database_up", "1 if the last statement was answered")
        self.broker_up = self._gauge("outbox_broker_up", "1 if the last publish or check was answered")
        self.listening = self._gauge("outbox_listening", "1 if commits wake the projector, 0 if it only polls")

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(name, help_text, ["tenant"], registry=self._registry).labels(self._tenant_id)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(name, help_text, ["tenant"], registry=self._registry).labels(self._tenant_id)
