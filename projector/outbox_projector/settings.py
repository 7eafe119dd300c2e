"""The settings of `outbox-projector run`: environment variables with the prefix OUTBOX_.

Validated once at the start; a wrong one ends the process with a sentence that names it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from bento_outbox import MisuseError
from bento_outbox.database_address import parse_database_address
from outbox_projector.pulsar_settings import PulsarSettings


class Settings(PulsarSettings):
    """Each field is read from OUTBOX_<ITS NAME>; those about Pulsar: `PulsarSettings`."""

    model_config = SettingsConfigDict(env_prefix="OUTBOX_", frozen=True, extra="ignore")

    tenant_id: str = Field(min_length=1)
    """Whose rows are delivered."""

    database_url: SecretStr | None = None
    """postgresql://user:password@host:5432/database; or else database_url_file."""
    database_url_file: Path | None = None
    """File with the URL, read again for each new connection, so that a rotated Secret needs no restart."""
    database_url_secret: str | None = None
    """name/key of the Secret behind the file; only for messages, which else name the file."""
    database_trusted_certificates_file: Path | None = None
    """PEM file of the authorities that may vouch for the database, read again for each new connection; with it, a URL
    without sslmode means verify-full. Unset: the file that PGSSLROOTCERT names, where the URL asks for a check."""
    database_schema: str = Field("public", min_length=1)
    database_table: str = Field("outbox", min_length=1)

    guarantee: Literal["AtLeastOnce", "ExactlyOnce"] = "AtLeastOnce"
    """ExactlyOnce: once each into the topic, in order per key. Needs deduplication in the namespace, and the topic to
    itself: no other producer can publish to it meanwhile, direct publish included."""

    lanes: int = Field(1, ge=1, le=64)
    """Slices of the rows by their key, which replicas share; each publishes to a partition of its own."""
    ordering: Literal["Aggregate", "None"] = "Aggregate"
    """None: an event that waits for another attempt does not hold back later ones of its key."""
    on_error: Literal["Continue", "HoldAggregate"] = "Continue"
    """HoldAggregate: an event in ERR holds back the later ones of its key until it is requeued or discarded."""

    batch_size: int = Field(1000, ge=1, le=10_000)
    """Rows a flight, while its bytes fit. More: a higher rate and more memory; above this hardly any."""
    max_retries: int = Field(5, ge=1, le=1000)
    """Refusals until a row becomes ERR. Outages do not count."""
    backoff_initial_milliseconds: int = Field(500, ge=1)
    backoff_max_seconds: int = Field(60, ge=1)
    poll_min_milliseconds: int = Field(20, ge=1)
    poll_max_milliseconds: int = Field(1000, ge=1)
    """An idle projector asks this often: bounds the latency of the first event after a silence."""
    poll_quiet_milliseconds: int = Field(20_000, ge=1, le=60_000)
    """Instead, while no event waits, commits wake this projector, and the tenant has no other: bounds the latency of
    the first event after a silence if its writer does not notify."""

    retention_sent_seconds: int = Field(604_800, ge=0)
    """SENT rows are deleted when they are older; 0: a row is deleted instead of being marked. A week: whoever looks on
    Monday into what happened on Friday still finds the rows. Until then a second event with the same id is refused."""
    retention_err_seconds: int | None = Field(None, ge=0)
    """ERR rows are deleted when they failed longer ago; unset: never, since they wait for a person."""

    resource_name: str | None = None
    """The OutboxTenant whose status is written; unset: no reports."""
    resource_namespace: str = "default"
    status_interval_seconds: int = Field(180, ge=1)
    """Longest time between two reports; material changes are reported sooner. The operator waits for three of them
    before it says NotReporting; one a minute from thousands of tenants would be the API server's main work."""

    http_port: int = Field(8080, ge=0, le=65535)
    """For /healthz, /readyz and /metrics; 0: none."""
    shutdown_grace_seconds: int = Field(20, ge=1)
    """For the batch in hand after SIGTERM; below the pod's terminationGracePeriodSeconds."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """In letters of any case."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_capitals(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _is_an_address(cls, value: SecretStr | None) -> SecretStr | None:
        # A file may be mended while we wait; this is as it is for good.
        if value is not None:
            try:
                parse_database_address(value.get_secret_value())
            except MisuseError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.database_url is None) == (self.database_url_file is None):
            raise ValueError("set one of OUTBOX_DATABASE_URL and OUTBOX_DATABASE_URL_FILE")
        if self.poll_min_milliseconds > self.poll_max_milliseconds:
            raise ValueError(
                f"OUTBOX_POLL_MIN_MILLISECONDS ({self.poll_min_milliseconds}) is above "
                f"OUTBOX_POLL_MAX_MILLISECONDS ({self.poll_max_milliseconds})"
            )
        if self.backoff_initial_milliseconds > 1000 * self.backoff_max_seconds:
            raise ValueError(
                f"OUTBOX_BACKOFF_INITIAL_MILLISECONDS ({self.backoff_initial_milliseconds}) is above "
                f"OUTBOX_BACKOFF_MAX_SECONDS ({self.backoff_max_seconds} s)"
            )
        if self.on_error == "HoldAggregate" and self.ordering == "None":
            raise ValueError("OUTBOX_ON_ERROR=HoldAggregate keeps an order: it needs OUTBOX_ORDERING=Aggregate")
        if self.pulsar_timeout_seconds >= self.shutdown_grace_seconds:
            raise ValueError(
                f"OUTBOX_PULSAR_TIMEOUT_SECONDS ({self.pulsar_timeout_seconds}) is not below "
                f"OUTBOX_SHUTDOWN_GRACE_SECONDS ({self.shutdown_grace_seconds}): "
                "a stop would cut off a batch that the broker has not answered yet"
            )
        return self


def load_settings() -> Settings:
    """The settings from the environment. Raises MisuseError with a line for each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        raise MisuseError("\n".join(_sentence(dict(problem)) for problem in error.errors())) from None


def _sentence(problem: dict[str, object]) -> str:
    location = problem["loc"]
    assert isinstance(location, tuple)
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not location:
        return message
    name = f"OUTBOX_{location[0]}".upper()
    if problem["type"] == "missing":
        return f"{name} is not set"
    if problem["type"] == "value_error":
        return f"{name}: {message}"  # our own checks name the value
    given = "" if name == "OUTBOX_DATABASE_URL" else f" (it is {problem['input']!r})"
    return f"{name}: {message[0].lower()}{message[1:]}{given}"
