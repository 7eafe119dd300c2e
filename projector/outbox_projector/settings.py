"""The settings of `outbox-projector run`: environment variables with the prefix OUTBOX_.

Validated once at the start; a wrong one ends the process with a sentence that names it. By msgspec, which is there
anyway: pydantic would cost each tenant's pod 11 of 60 MB for good.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from bento_outbox import MisuseError
from bento_outbox.database_address import parse_database_address
from outbox_projector.pulsar_settings import CHECKS, PulsarSettings


class DatabaseUrl:
    """The URL of the database; it holds a password, and nobody gets to see it by accident."""

    def __init__(self, text: str) -> None:
        """Raises MisuseError when it is none."""
        parse_database_address(text)
        self.text = text

    def __repr__(self) -> str:
        return "**********"


class Settings(PulsarSettings, frozen=True, kw_only=True):
    """Each field is read from OUTBOX_<ITS NAME>; those about Pulsar: `PulsarSettings`."""

    tenant_id: Annotated[str, Meta(min_length=1)]
    """Whose rows are delivered."""

    database_url: DatabaseUrl | None = None
    """postgresql://user:password@host:5432/database; or else database_url_file."""
    database_url_file: Path | None = None
    """File with the URL, read again for each new connection, so that a rotated Secret needs no restart."""
    database_url_secret: str | None = None
    """name/key of the Secret behind the file; only for messages, which else name the file."""
    database_trusted_certificates_file: Path | None = None
    """PEM file of the authorities that may vouch for the database, read again for each new connection; with it, a URL
    without sslmode means verify-full. Unset: the file that PGSSLROOTCERT names, where the URL asks for a check."""
    database_schema: Annotated[str, Meta(min_length=1)] = "public"
    database_table: Annotated[str, Meta(min_length=1)] = "outbox"

    guarantee: Literal["AtLeastOnce", "ExactlyOnce"] = "AtLeastOnce"
    """ExactlyOnce: once each into the topic, in order per key. Needs deduplication in the namespace, and the topic to
    itself: no other producer can publish to it meanwhile, direct publish included."""

    lanes: Annotated[int, Meta(ge=1, le=64)] = 1
    """Slices of the rows by their key, which replicas share; each publishes to a partition of its own."""
    ordering: Literal["Aggregate", "None"] = "Aggregate"
    """None: an event that waits for another attempt does not hold back later ones of its key."""
    on_error: Literal["Continue", "HoldAggregate"] = "Continue"
    """HoldAggregate: an event in ERR holds back the later ones of its key until it is requeued or discarded."""

    batch_size: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    """Rows a flight, while its bytes fit. More: a higher rate and more memory; above this hardly any."""
    max_retries: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Refusals until a row becomes ERR. Outages do not count."""
    backoff_initial_milliseconds: Annotated[int, Meta(ge=1)] = 500
    backoff_max_seconds: Annotated[int, Meta(ge=1)] = 60
    poll_min_milliseconds: Annotated[int, Meta(ge=1)] = 20
    poll_max_milliseconds: Annotated[int, Meta(ge=1)] = 1000
    """An idle projector asks this often: bounds the latency of the first event after a silence."""
    poll_quiet_milliseconds: Annotated[int, Meta(ge=1, le=60_000)] = 20_000
    """Instead, while no event waits, commits wake this projector, and the tenant has no other: bounds the latency of
    the first event after a silence if its writer does not notify."""

    retention_sent_seconds: Annotated[int, Meta(ge=0)] = 604_800
    """SENT rows are deleted when they are older; 0: a row is deleted instead of being marked. A week: whoever looks on
    Monday into what happened on Friday still finds the rows. Until then a second event with the same id is refused."""
    retention_err_seconds: Annotated[int, Meta(ge=0)] | None = None
    """ERR rows are deleted when they failed longer ago; unset: never, since they wait for a person."""

    resource_name: str | None = None
    """The OutboxTenant whose status is written; unset: no reports."""
    resource_namespace: str = "default"
    status_interval_seconds: Annotated[int, Meta(ge=1)] = 180
    """Longest time between two reports; material changes are reported sooner. The operator waits for three of them
    before it says NotReporting; one a minute from thousands of tenants would be the API server's main work."""

    http_port: Annotated[int, Meta(ge=0, le=65535)] = 8080
    """For /healthz, /readyz and /metrics; 0: none."""
    shutdown_grace_seconds: Annotated[int, Meta(ge=1)] = 20
    """For the batch in hand after SIGTERM; below the pod's terminationGracePeriodSeconds."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """In letters of any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.database_url is None) == (self.database_url_file is None):
            raise MisuseError("set one of OUTBOX_DATABASE_URL and OUTBOX_DATABASE_URL_FILE")
        if self.poll_min_milliseconds > self.poll_max_milliseconds:
            raise MisuseError(
                f"OUTBOX_POLL_MIN_MILLISECONDS ({self.poll_min_milliseconds}) is above "
                f"OUTBOX_POLL_MAX_MILLISECONDS ({self.poll_max_milliseconds})"
            )
        if self.backoff_initial_milliseconds > 1000 * self.backoff_max_seconds:
            raise MisuseError(
                f"OUTBOX_BACKOFF_INITIAL_MILLISECONDS ({self.backoff_initial_milliseconds}) is above "
                f"OUTBOX_BACKOFF_MAX_SECONDS ({self.backoff_max_seconds} s)"
            )
        if self.on_error == "HoldAggregate" and self.ordering == "None":
            raise MisuseError("OUTBOX_ON_ERROR=HoldAggregate keeps an order: it needs OUTBOX_ORDERING=Aggregate")
        if self.pulsar_timeout_seconds >= self.shutdown_grace_seconds:
            raise MisuseError(
                f"OUTBOX_PULSAR_TIMEOUT_SECONDS ({self.pulsar_timeout_seconds}) is not below "
                f"OUTBOX_SHUTDOWN_GRACE_SECONDS ({self.shutdown_grace_seconds}): "
                "a stop would cut off a batch that the broker has not answered yet"
            )

    def shown(self) -> dict[str, str | int]:
        """What is set, for the log; without the database's password."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: value if isinstance(value, int) else str(value) for name, value in values.items() if value is not None
        }


NORMALIZED: Mapping[str, Callable[[str], str]] = {"log_level": str.upper, **CHECKS}
"""By field: a value as it is taken, or MisuseError."""


def load_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings from the environment. Raises MisuseError with a line for each wrong variable."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    for field in msgspec.structs.fields(Settings):
        name = f"OUTBOX_{field.name.upper()}"
        if name not in environment:
            if field.required:
                problems.append(f"{name} is not set")
            continue
        try:
            text = NORMALIZED.get(field.name, str)(environment[name])
            values[field.name] = msgspec.convert(text, field.type, strict=False, dec_hook=_made_of_text)
        except MisuseError as error:  # names the value itself
            problems.append(f"{name}: {error}")
        except msgspec.ValidationError as error:
            problems.append(f"{name}: {_expected(field.type, error)} (it is {environment[name]!r})")
    if problems:
        raise MisuseError("\n".join(problems))
    return Settings(**values)


def _made_of_text(kind: type[Any], text: str) -> Any:
    """A Path or a DatabaseUrl. (A ValueError would be told with the text, which may hold a password.)"""
    return kind(text)


def _expected(kind: Any, error: msgspec.ValidationError) -> str:
    if get_origin(kind) is Literal:
        return f"expected one of {', '.join(get_args(kind))}"
    # "Expected `int | null`, got `str`": all of them are text, and null is what is not set.
    text = str(error).removesuffix(", got `str`").replace(" | null", "").replace("`", "")
    return text[0].lower() + text[1:]
